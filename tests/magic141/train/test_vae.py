from dataclasses import replace
from functools import partial

import pytest
import torch

from magic141.autoencoder import AutoencoderMagic141
from magic141.data.render import render
from magic141.data.world import World
from magic141.train import vae
from magic141.train.loop import Settings

small = partial(AutoencoderMagic141, width=32, fine_width=16, encoder_blocks=1, decoder_blocks=1)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setattr(vae, "AutoencoderMagic141", small)
    return Settings(out=tmp_path, samples=8, batch_size=2, lr=1e-2, warmup_steps=1, ema=0.5)


def test_training_learns_to_reconstruct(settings):
    torch.manual_seed(0)
    untrained = small()
    model, seen = vae.train(replace(settings, samples=80, lr=3e-3, ema=0.9))
    assert seen.step == 40
    video = vae.to_model(render(World().scenes("validation", 0, 8), 5))
    with torch.no_grad():
        # Whitened by this batch: running statistics take longer than this test.
        before, after = ((one.train()(video) - video).square().mean() for one in (untrained, model))
    assert after < 0.5 * before
