from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from evals import clip_world, results
from evals.__main__ import app
from evals.catalogue import ATTRIBUTES
from evals.clip_scores import ClipJudge, clip_scores
from evals.clip_world_exam import (
    CANDIDATES,
    REQUIRED,
    VISIBLE,
    directions,
    factors,
    hard_negatives,
    laws,
    order,
    restated,
    retrieval,
)
from evals.clip_world_training import (
    CONTEXT,
    MODEL,
    ClipWorldTraining,
    contrastive_loss,
    make_batch,
    make_tokenizer,
    train,
)
from magic141.data.render import render
from magic141.data.world import World
from magic141.errors import InputError, WeightsCorrupt, WeightsMissing


@pytest.fixture(scope="module")
def judge():
    return clip_world.load()


@pytest.fixture(scope="module")
def truth():
    """Four clips of five frames, and their captions."""
    scenes = World().scenes("test", 0, 4)
    return render(scenes, 5).numpy(), [scene.caption() for scene in scenes]


def test_a_batch_is_one_frame_of_each_scene_and_its_caption():
    pixels, captions = make_batch(0, 16, torch.Generator().manual_seed(0))
    assert pixels.shape == (16, 3, 64, 64)
    assert pixels.abs().max() <= 1.5  # corruptions may leave [-1, 1] a little
    assert len(set(captions)) == 16
    again, _ = make_batch(0, 16, torch.Generator().manual_seed(0))
    assert torch.equal(pixels, again)


def test_steps_on_a_batch_lower_its_loss():
    torch.manual_seed(0)
    model, tokenizer = open_clip.CLIP(**MODEL), make_tokenizer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    pixels, captions = make_batch(0, 8, torch.Generator().manual_seed(0))
    tokens = tokenizer(captions, padding="max_length", max_length=CONTEXT, return_tensors="pt").input_ids
    losses = []
    for _ in range(8):
        loss, _ = contrastive_loss(model, pixels, tokens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_training_resumes_where_it_stopped(tmp_path):
    config = ClipWorldTraining(samples=24, batch_size=8, warmup_steps=1)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(config, tmp_path / "a", output=whole)
    stops = 0
    while not train(config, tmp_path / "b", output=cut, budget_minutes=1e-6):
        stops += 1
    assert stops == 2
    facts = clip_world.card(whole)
    assert facts["sha256"] == clip_world.card(cut)["sha256"]
    assert facts["training"]["samples"] == 24
    assert facts["bytes"] < 2_000_000
    assert open_clip.create_model(f"local-dir:{clip_world.verified(whole)}", require_pretrained=True)


def test_a_run_of_another_seed_is_not_gone_on_with(tmp_path):
    config = ClipWorldTraining(samples=8, batch_size=8, warmup_steps=1)
    assert train(config, tmp_path / "run", output=tmp_path / "judge")
    with pytest.raises(InputError, match="with seed=141, and 5 is asked"):
        train(replace(config, seed=5), tmp_path / "run", output=tmp_path / "other")
    with pytest.raises(InputError, match="samples=7 must be at least 8"):
        train(replace(config, samples=7), tmp_path / "short", output=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_every_caption_fits_and_case_and_commas_do_not_matter(judge):
    captions = [scene.caption() for scene in World(stated=1.0).scenes("test", 0, 200)]
    assert not any(judge.is_truncated(caption) for caption in captions)
    unknown = judge.tokenizer.tokenizer.unk_token_id
    assert not (judge.tokenizer(captions) == unknown).any()
    plain, shouted, foreign = judge.tokenizer(["a red ring", "A RED, ring!", "a red zebra"])
    assert torch.equal(plain, shouted)
    assert (foreign == unknown).sum() == 1
    assert not judge.is_truncated("red " * (CONTEXT - 2))
    assert judge.is_truncated("red " * (CONTEXT - 1))


def test_what_changed_or_went_missing_is_refused(tmp_path):
    for name, change, error, says in (
        (
            clip_world.WEIGHTS_FILE,
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            WeightsCorrupt,
            "sha256",
        ),
        ("tokenizer.json", lambda path: path.write_text("{}"), WeightsCorrupt, "sha256"),
        ("open_clip_config.json", lambda path: path.unlink(), WeightsMissing, "no open_clip_config.json"),
        (clip_world.CARD_FILE, lambda path: path.unlink(), WeightsMissing, "clip-world train"),
    ):
        folder = tmp_path / name
        shutil.copytree(clip_world.FOLDER, folder)
        change(folder / name)
        with pytest.raises(error, match=says):
            clip_world.load(folder)


def test_the_judge_has_a_name_of_its_own(judge):
    found = ClipJudge.load("world")
    assert found.identity == judge.identity
    assert "model=world" in found.protocol("clip-text")
    assert clip_world.protocol("1-32").startswith("clip-world; ")
    assert "frames=1-32" in clip_world.protocol("1-32")
    with pytest.raises(InputError, match="leave --clip-weights out"):
        ClipJudge.load("world", "openai")


def test_scores_are_those_of_the_clip_judge(judge, truth):
    frames, captions = truth
    found = clip_world.scores(frames, captions)
    expected = [
        clip_scores(judge, clip, text)["clip-world"] for clip, text in zip(frames, captions, strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found > clip_world.scores(frames, captions[::-1])).all()
    np.testing.assert_allclose(clip_world.scores(frames[:, :1], captions), found, atol=0.3)


def test_scores_refuse_what_they_cannot_read(truth):
    frames, captions = truth
    for bad, prompts in (
        (frames, captions[1:]),
        (frames / 255, captions),
        (frames[0], captions),
        (frames[:0], []),
    ):
        with pytest.raises(InputError):
            clip_world.scores(bad, prompts)


def test_the_command_line_knows_the_judge(tmp_path, truth):
    frames, captions = truth
    for i, clip in enumerate(frames):
        (tmp_path / f"{i}").mkdir()
        for t, frame in enumerate(clip):
            Image.fromarray(frame).save(tmp_path / f"{i}" / f"{t}.png")
    folders = [str(tmp_path / f"{i}") for i in range(len(frames))]
    prompts, output = tmp_path / "prompts.jsonl", tmp_path / "scores.json"
    lines = [json.dumps({"file": f"{i}", "prompt": text}) for i, text in enumerate(captions)]
    prompts.write_text("\n".join(lines))
    options = [
        "--metrics",
        "clip-text",
        "--clip-model",
        "world",
        "--prompts",
        str(prompts),
        "-o",
        str(output),
    ]
    done = CliRunner().invoke(app, ["score", *folders, *options])
    assert done.exit_code == 0, done.output
    found = results.read(output).aggregate["clip-world"]
    assert found.value == pytest.approx(clip_world.scores(frames, captions).mean(), abs=1e-6)
    assert "model=world" in found.protocol


def test_candidates_differ_in_motion_alone():
    scene = World().scene("test", 5)
    drifts, kinds = directions(scene), laws(scene)
    words = [set(candidate.caption().split()) for candidate in drifts]
    common = set.intersection(*words)
    assert set.union(*words) - common <= {"right", "left", "up", "down"}
    assert len({candidate.caption() for candidate in drifts}) == 8
    assert len({candidate.caption() for candidate in kinds}) == 4
    still = scene.labels() | {"motion": None, "direction": None}
    for candidate in (*drifts, *kinds):
        assert candidate.labels() | {"motion": None, "direction": None} == still
    for candidate in drifts:
        assert np.ptp(candidate.truth(33).velocity[:, 0], axis=0).max() < 1e-9  # nothing bounces or turns
    there, back = (drifts[i].truth(33).positions[:, 0] for i in (1, 5))
    np.testing.assert_allclose(there, back[::-1], atol=1e-9)


@pytest.mark.parametrize("factor", VISIBLE)
def test_restated_captions_name_every_value(factor):
    scene = World().scene("test", 5)
    captions = restated(scene, factor)
    assert len(set(captions)) == len(captions) == len(ATTRIBUTES[factor])
    assert captions[scene.labels()[factor]] == scene.caption()


def test_single_words_are_found(judge):
    found = factors(12, stride=16, judge=judge)
    for name in ("colour", "tone", "hue"):
        assert found[name]["accuracy"] > 0.8


def test_truth_is_found_quickly(judge):
    for row in retrieval(2 * CANDIDATES, stride=8, judge=judge).values():
        assert row["accuracy"] >= REQUIRED


@pytest.mark.slow
def test_truth_is_found(judge):
    for row in retrieval(8 * CANDIDATES, stride=4, judge=judge).values():
        assert row["accuracy"] >= REQUIRED
        assert row["n"] == 256


def test_the_card_says_what_the_exam_found():
    exam = clip_world.card()["exam"]
    for way in ("text-to-video", "video-to-text"):
        assert exam[f"{way} among 32"]["accuracy"] >= REQUIRED
        for kind in ("directions", "laws"):
            blind = exam[f"{way} among {kind}"]
            assert blind["low"] <= blind["chance"] <= blind["high"]


@pytest.mark.parametrize(
    ("kind", "scenes", "stride"),
    [
        ("directions", 12, 16),
        pytest.param("directions", 64, 4, marks=pytest.mark.slow),
        pytest.param("laws", 64, 4, marks=pytest.mark.slow),
    ],
)
def test_motion_alone_is_not_found(judge, kind, scenes, stride):
    for row in hard_negatives(kind, scenes, stride=stride, judge=judge).values():
        assert row["low"] <= row["chance"] <= row["high"]


def test_the_order_of_frames_does_not_show(judge):
    assert max(order(2, judge=judge).values()) < 1e-6
