import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from magic141.conditioning import encode_prompt, make_text_image_model, make_tokenizer
from magic141.train.flow import CELLS, PLACE_WEIGHT, Batch, Denoiser, Sampler, density, times
from magic141.train.latents import WORLD, LatentSet, SetSpec


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    return Denoiser()


def batch(known, frames=3):
    g = torch.Generator().manual_seed(1)
    return Batch(
        latents=torch.randn(4, 16, frames, 8, 8, generator=g),
        known=known,
        continuation=torch.zeros(4, dtype=torch.bool),
        text_tokens=torch.randn(4, 24, 128, generator=g),
        pooled=torch.randn(4, 128, generator=g),
        image_tokens=None,
        cover=torch.rand(4, frames, 16, 16, generator=g),
    )


def loss(denoiser, of):
    return denoiser(of, 1.0, 0.0, torch.Generator().manual_seed(2))


def test_an_untrained_model_predicts_zero_and_pays_the_power_of_the_velocity(denoiser):
    # v = eps - x0 of independent unit normals has variance 2.
    assert loss(denoiser, batch(0))["v"].item() == pytest.approx(2.0, rel=0.05)


def test_given_frames_cost_nothing(denoiser):
    """Only unknown frames enter the loss, so a velocity that is wrong on given ones alone costs nothing."""
    free = loss(denoiser, batch(1))["loss"]
    changed = batch(1)
    changed.latents[:, :, :1] += 100.0  # the untrained output is zero, so any cost of frame 0 would show
    torch.testing.assert_close(loss(denoiser, changed)["v"], loss(denoiser, batch(1))["v"])
    assert torch.isfinite(free)


def test_covered_tokens_weigh_more_where_that_is_asked(denoiser):
    even = dataclasses.replace(batch(0), cover=torch.zeros(4, 3, 16, 16))
    heavy = even.cover.clone()
    heavy[:, 0] = 1.0
    loud = dataclasses.replace(even, latents=even.latents.clone(), cover=heavy)
    loud.latents[:, :, 0] *= 5.0
    quiet = dataclasses.replace(loud, cover=torch.zeros(4, 3, 16, 16))

    def weighted(of):
        return denoiser(of, 1.0, 0.0, torch.Generator().manual_seed(2), object_weight=6.0)["loss"]

    assert weighted(loud) > weighted(quiet)
    assert loss(denoiser, loud)["v"] == loss(denoiser, quiet)["v"]


def test_what_the_head_told_becomes_a_density_on_the_latents_grid():
    cover = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    cells = F.pixel_unshuffle(cover.unsqueeze(2), CELLS).movedim(2, -1).flatten(2)
    found = density(cells.log(), 8)
    share = cover / cover.mean((-1, -2), keepdim=True)
    torch.testing.assert_close(found, F.avg_pool2d(share, 2))


def test_costs_gather_where_the_model_thinks_that_objects_are_and_not_where_they_are(denoiser):
    """Else the velocity of least cost would be another: weights may depend on x_t alone."""
    model = copy.deepcopy(denoiser)
    model.place.weight.data.zero_()
    model.place.bias.data[:] = 0.0
    even = loss(model, batch(0))["loss"] - PLACE_WEIGHT * loss(model, batch(0))["place"]
    torch.testing.assert_close(even, loss(model, batch(0))["v"])  # thinking nothing, it weighs all alike
    moved = dataclasses.replace(batch(0), cover=batch(0).cover.flip(-1))
    told = loss(denoiser, batch(0)), loss(denoiser, moved)
    flows = [terms["loss"] - PLACE_WEIGHT * terms["place"] for terms in told]
    torch.testing.assert_close(*flows)


def test_a_few_steps_learn(denoiser):
    model = Denoiser()
    solver = torch.optim.AdamW(model.parameters(), 1e-3)
    first = None
    for _ in range(12):
        terms = loss(model, batch(1))
        first = first or terms["v"].item()
        solver.zero_grad()
        terms["loss"].backward()
        solver.step()
    assert terms["v"].item() < 0.95 * first


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_times_lie_in_0_to_1_and_their_median_is_the_shifted_half(shift):
    t = times(20_000, shift, torch.Generator().manual_seed(0))
    assert ((t > 0) & (t < 1)).all()
    assert t.median().item() == pytest.approx(shift / (1 + shift), abs=0.01)


@pytest.fixture(scope="module")
def source():
    spec = SetSpec("long", 25, 1_000_000)
    frames = np.arange(25, dtype=np.float16)[None, :, None, None, None]
    return LatentSet(
        spec,
        latents=np.broadcast_to(frames, (3, 25, 16, 8, 8)).copy(),
        image_tokens=np.zeros((3, 16, 128), np.float16),
        cover=np.zeros((3, 25, 16, 16), np.uint8),
    )


def test_windows_inside_a_video_are_continuations_with_the_caption_of_their_first_frame(source, monkeypatch):
    sampler = Sampler(make_text_image_model().eval(), make_tokenizer())
    heard = []
    monkeypatch.setattr(
        sampler, "encode", lambda captions, generator: (heard.extend(captions), (None, None))[1]
    )
    drawn = sampler.draw(source, 8, torch.Generator().manual_seed(0), frames=9, known=2, inside=True)
    assert drawn.latents.shape == (8, 16, 9, 8, 8)
    assert drawn.continuation.all()
    assert drawn.known == 2
    starts = drawn.latents[:, 0, 0, 0, 0]
    assert ((starts >= 1) & (starts <= 16)).all()
    possible = [
        {WORLD.scene("train", 1_000_000 + row).caption(int(4 * s - 3)) for row in range(3)} for s in starts
    ]
    assert all(caption in options for caption, options in zip(heard, possible, strict=True))


def test_a_tenth_of_captions_is_dropped_for_guidance():
    sampler = Sampler(make_text_image_model().eval(), make_tokenizer())
    tokens, pooled = sampler.encode(["a small red ring"] * 400, torch.Generator().manual_seed(0))
    empty_tokens, empty = encode_prompt(sampler.clip, sampler.tokenizer, "", allow_empty=True)
    dropped = torch.isclose(pooled, empty, atol=1e-5).all(1)
    assert 0.05 < dropped.float().mean() < 0.16
    torch.testing.assert_close(tokens[dropped], empty_tokens.expand(int(dropped.sum()), -1, -1))


def test_a_tenth_of_captions_is_cut_to_what_says_an_object_at_least():
    caption = "a small red ring drifting left over dark stripes"
    sampler = Sampler(make_text_image_model().eval(), make_tokenizer())
    _, pooled = sampler.encode([caption] * 400, torch.Generator().manual_seed(0))
    words = caption.split()
    prefixes = [" ".join(words[:count]) for count in range(4, len(words) + 1)]
    known = encode_prompt(sampler.clip, sampler.tokenizer, ["", *prefixes], allow_empty=True)[1]
    which = torch.cdist(pooled, known).argmin(1)
    torch.testing.assert_close(pooled, known[which], atol=1e-4, rtol=0)
    cut = (which > 0) & (which < len(prefixes))
    assert 0.05 < cut.float().mean() < 0.16
    assert len(which[cut].unique()) > 3
