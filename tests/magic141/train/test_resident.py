"""Sets that lie on the device give the batches of those on disk."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from magic141.conditioning import make_text_image_model, make_tokenizer
from magic141.train.flow import Sampler
from magic141.train.latents import CLIPS, IMAGES, LONG, LatentSet
from magic141.train.resident import ResidentSampler, sampler_on

ASKED = {
    "clips": (CLIPS, {"frames": 9, "known": 1}),
    "images": (IMAGES, {"frames": 1, "known": 0, "image_tokens": False}),
    "long": (LONG, {"frames": 9, "known": 2, "inside": True}),
}


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return make_text_image_model().eval(), make_tokenizer()


def made(spec, rows=40):
    rng = np.random.default_rng(0)
    return LatentSet(
        spec,
        latents=rng.normal(size=(rows, spec.latent_frames, 16, 8, 8)).astype(np.float16),
        image_tokens=rng.normal(size=(rows, 16, 128)).astype(np.float16),
        cover=rng.integers(0, 256, (rows, spec.latent_frames, 16, 16), dtype=np.uint8),
    )


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("dropped", [0.0, 0.1])
def test_batches_are_those_of_sets_on_disk(models, name, dropped):
    """256 rows: some without words, some cut short, and turns that change what a caption says within a long clip."""
    spec, how = ASKED[name]
    source = made(spec)
    theirs, ours = (
        kind(*models, "cpu", dropped).draw(source, 256, torch.Generator().manual_seed(3), **how)
        for kind in (Sampler, ResidentSampler)
    )
    for field in fields(theirs):
        torch.testing.assert_close(getattr(ours, field.name), getattr(theirs, field.name), atol=1e-5, rtol=0)


def test_captions_are_read_once(models, monkeypatch):
    source = made(CLIPS, rows=4)
    sampler = ResidentSampler(*models, "cpu")
    first = sampler.draw(source, 2, torch.Generator().manual_seed(0), frames=9, known=1)
    monkeypatch.setattr(LatentSet, "caption", None)
    again = sampler.draw(source, 2, torch.Generator().manual_seed(0), frames=9, known=1)
    assert torch.equal(first.text_tokens, again.text_tokens)


def test_a_cpu_leaves_them_on_disk(models):
    assert type(sampler_on("cpu", *models)) is Sampler


@pytest.mark.gpu
def test_an_accelerator_holds_them(models):
    sampler = sampler_on("cuda", *models)
    drawn = sampler.draw(made(CLIPS), 8, torch.Generator().manual_seed(0), frames=9, known=1)
    assert drawn.latents.is_cuda
    assert drawn.text_tokens.is_cuda
