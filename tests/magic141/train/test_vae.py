from dataclasses import replace
from functools import partial

import pytest
import torch

from magic141.autoencoder import AutoencoderMagic141
from magic141.data.render import render
from magic141.data.world import World
from magic141.errors import InputError
from magic141.train import vae
from magic141.train.loop import Settings

small = partial(AutoencoderMagic141, width=32, fine_width=16, encoder_blocks=1, decoder_blocks=1)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setattr(vae, "BATCH", 2)
    monkeypatch.setattr(vae, "AutoencoderMagic141", partial(small, fine_decoder_blocks=2))
    return Settings(out=tmp_path, samples=8, batch_size=2, lr=1e-2, warmup_steps=1, ema=0.5)


def test_tuning_the_decoder_leaves_every_latent_as_it_was(settings):
    torch.manual_seed(1)
    trained = small(fine_decoder_blocks=1)
    video = torch.rand(1, 3, 5, 16, 16)
    trained(video)  # some running statistics
    trained.eval()
    with torch.no_grad():
        latents, before = trained.encode(video), trained.decode(trained.encode(video))
    tuned, seen = vae.tune_decoder(settings, trained)
    assert seen.samples == 8
    assert len(tuned.fine_decoder) == 2
    with torch.no_grad():
        torch.testing.assert_close(tuned.encode(video), latents, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(tuned.decode(latents), before, atol=1e-3)


def test_an_autoencoder_of_another_shape_is_refused(settings):
    with pytest.raises(InputError, match="another shape"):
        vae.tune_decoder(settings, small(fine_encoder_blocks=2))


def test_training_learns_to_reconstruct(settings):
    torch.manual_seed(0)
    untrained = small(fine_decoder_blocks=2)
    model, seen = vae.train(replace(settings, samples=80, lr=3e-3, ema=0.9))
    assert seen.step == 40
    video = vae.to_model(render(World().scenes("validation", 0, 8), 5))
    with torch.no_grad():
        # Whitened by this batch: running statistics take longer than this test.
        before, after = ((one.train()(video) - video).square().mean() for one in (untrained, model))
    assert after < 0.5 * before
