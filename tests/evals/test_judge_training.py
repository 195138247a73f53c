from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from evals import training
from evals.catalogue import ATTRIBUTES, CENTRES, GROUPS
from evals.judge_data import BANDS, STATES, band_energies, corrupt, make_batch
from evals.judge_training import JudgeTraining, train
from evals.judges import WorldJudge, load_judge
from evals.protocol import sha256_of
from magic141.data.world import World
from magic141.errors import InputError, WeightsCorrupt, WeightsMissing


@pytest.fixture(scope="module")
def batch():
    return make_batch(World().scenes("train", 0, 24), torch.Generator().manual_seed(0), corrupted=False)


def test_batch_holds_the_truth(batch):
    assert batch.video.shape == (24, 32, 64, 64, 3)
    assert batch.state.shape == (24, STATES)
    assert batch.bands.shape == (24, BANDS)
    assert set(batch.labels) == set(ATTRIBUTES)
    for name, values in batch.labels.items():
        assert int(values.max()) < len(ATTRIBUTES[name])


def test_track_is_where_the_subject_is(batch):
    """The subject's colour is found at its track, except where the shape is hollow."""
    names = ATTRIBUTES["shape"]
    for row in range(24):
        if names[batch.labels["shape"][row]] not in ("circle", "square", "star", "cross"):
            continue
        xy = ((batch.track[row] + 1) * 32).numpy()
        if np.isnan(xy).any():
            continue
        pixels = [batch.video[row, f - 1, int(y), int(x)] for f, (x, y) in zip(CENTRES, xy, strict=True)]
        assert torch.stack(pixels).std(dim=0).max() < 0.02


def test_bands_feel_blur_freezing_and_flicker(batch):
    clean = band_energies(batch.video)
    textured = batch.labels["texture"] > 0
    blurred = batch.video.clone()
    for _ in range(3):
        blurred[:, :, 1:-1] = (blurred[:, :, :-2] + 2 * blurred[:, :, 1:-1] + blurred[:, :, 2:]) / 4
    assert (band_energies(blurred)[:, 0] < clean[:, 0])[textured].all()
    frozen = batch.video.clone()
    frozen[:, 20:] = frozen[:, 20:21]
    assert (band_energies(frozen)[:, 6] < clean[:, 6] - 0.5)[textured].all()
    flicker = batch.video + 0.1 * torch.tensor([1.0, -1.0]).repeat(16).view(1, -1, 1, 1, 1)
    assert (band_energies(flicker)[:, 7] > clean[:, 7]).all()


def test_corruption_is_mild_and_seeded(batch):
    clip = batch.video[0]
    for seed in range(20):
        a, b = (corrupt(clip.clone(), torch.Generator().manual_seed(seed)) for _ in range(2))
        assert torch.equal(a, b)
        assert a.shape == clip.shape
        assert (a - clip).abs().mean() < 0.25


def test_groups_are_the_overlapping_fives(batch):
    """A change in one frame reaches only the groups that hold it, and frame 0 is nobody's.

    The track itself is another matter: what the first group shows is looked for in all.
    """
    model = WorldJudge().eval()
    with torch.inference_mode():
        before = model(batch.video[:1]).detections
        for frame, groups in ((2, {0}), (5, {0, 1}), (32, {7})):
            changed = batch.video[:1].clone()
            changed[:, frame - 1] = -changed[:, frame - 1]
            moved = (model(changed).detections - before).abs().amax(dim=(0, 2)) > 1e-6
            assert set(torch.nonzero(moved)[:, 0].tolist()) == groups
    assert before.shape == (1, GROUPS, 2)


def test_images_are_judged_alike_beside_clips_and_alone(batch):
    model = WorldJudge().eval()
    with torch.inference_mode():
        both, alone = model(batch.video[:2], batch.image[:3]), model.judge_images(batch.image[:3])
        clips = model(batch.video[:2])
    for name, logits in alone.items():
        torch.testing.assert_close(both.image_logits[name], logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both.features, clips.features, atol=1e-4, rtol=1e-4)


def test_training_resumes_where_it_stopped(tmp_path):
    config = JudgeTraining(samples=24, batch_size=8, warmup_steps=1)
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    assert train(config, tmp_path / "a", output=whole)
    stops = 0
    while not train(config, tmp_path / "b", output=cut, budget_minutes=1e-6):
        stops += 1
    assert stops == 2
    assert sha256_of(whole) == sha256_of(cut)
    facts = json.loads(whole.with_suffix(".json").read_text())
    assert facts["sha256"] == sha256_of(whole)
    assert facts["training"]["samples"] == 24
    assert facts["bytes"] < 1_600_000
    load_judge(whole)
    cut.write_bytes(cut.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsCorrupt, match="sha256"):
        load_judge(cut)
    with pytest.raises(WeightsMissing, match="judge train"):
        load_judge(tmp_path / "none.safetensors")


def halves(folder, asked, steps=2):
    """A run of `steps` steps, each of which halves the one weight."""
    weight = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(weight.weight)

    def update(step):
        with torch.no_grad():
            weight.weight *= 0.5
        return {"loss": weight.weight.sum()}

    training.run("x", folder, {"model": weight}, steps, update, asked=asked, every=1, budget_minutes=None)
    return weight.weight.item()


def test_a_checkpoint_is_gone_on_with_by_its_own_run_alone(tmp_path):
    asked = {"samples": 16, "learning_rate": 1e-3, "seed": 0}
    assert halves(tmp_path, asked) == 0.25
    assert halves(tmp_path, asked) == 0.25
    for name, other in (("seed", 1), ("samples", 32), ("learning_rate", 2e-3)):
        with pytest.raises(InputError, match=f"with {name}={asked[name]}, and {other} is asked: .*--out"):
            halves(tmp_path, asked | {name: other}, steps=4)
    saved = torch.load(tmp_path / training.CHECKPOINT, weights_only=True)
    del saved["asked"]
    torch.save(saved, tmp_path / training.CHECKPOINT)
    with pytest.raises(InputError, match="of an older version"):
        halves(tmp_path, asked)


def test_the_seed_of_the_card_is_the_one_that_was_used(tmp_path):
    config = JudgeTraining(samples=8, batch_size=8, warmup_steps=1)
    assert train(config, tmp_path / "run", output=tmp_path / "judge.safetensors")
    with pytest.raises(InputError, match="with seed=0, and 5 is asked"):
        train(replace(config, seed=5), tmp_path / "run", output=tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()


def test_less_than_a_batch_trains_no_judge(tmp_path):
    with pytest.raises(InputError, match="samples=23 must be at least 24"):
        train(JudgeTraining(samples=23), tmp_path / "run", output=tmp_path / "judge.safetensors")
    assert not list(tmp_path.iterdir())
