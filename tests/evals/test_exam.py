import numpy as np
import pytest

from evals import lab
from evals.corruptions import CORRUPTIONS, LEVELS
from evals.exam import CERTAIN, N, _answer, _flow, _scores, _Value, examine, plot
from magic141.data.render import render
from magic141.data.world import World


@pytest.fixture(scope="module")
def truth():
    scenes = World(moving_texture=0.0).scenes("test", 0, 8)
    return scenes, render(scenes).numpy()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_harm_grows_with_its_level_and_is_the_same_again(truth, name):
    scenes, clips = truth
    before = clips.copy()
    distances = []
    for level in range(1, LEVELS + 1):
        harmed, again = (
            CORRUPTIONS[name](scenes, clips, level, np.random.default_rng(level)) for _ in range(2)
        )
        assert harmed.shape == clips.shape
        assert harmed.dtype == np.uint8
        assert np.array_equal(harmed, again)
        distances.append(np.abs(harmed.astype(float) - clips).mean())
    assert np.array_equal(clips, before)
    assert distances[0] > 0
    if name != "slow":  # a path that turns back comes near its truth again
        assert distances == sorted(distances)


def test_shuffling_keeps_every_frame(truth):
    scenes, clips = truth
    harmed = CORRUPTIONS["shuffle"](scenes, clips, LEVELS, np.random.default_rng(0))
    assert np.array_equal(np.sort(harmed.mean((2, 3, 4))), np.sort(clips.mean((2, 3, 4))))
    assert np.array_equal(harmed[:, 0], clips[:, 0])


def test_the_flow_ratio_is_that_of_the_lab(truth):
    scenes, clips = truth
    harmed = CORRUPTIONS["slow"](scenes, clips, 2, np.random.default_rng(0))
    theirs = lab.score(harmed, scenes, metrics=["flow-ratio"]).aggregate["flow-ratio"]
    ours = _scores(harmed, clips, _flow(clips), scenes)["flow-ratio"]
    assert (ours.value, ours.better, ours.target) == (theirs.value, theirs.better, theirs.target)
    assert ours.error == pytest.approx((theirs.high - theirs.low) / 3.92 * np.sqrt(8 / N), rel=1e-3)


@pytest.mark.parametrize(
    ("better", "values", "verdict"),
    [
        ("higher", (1.0, 0.0), "sees"),
        ("higher", (0.0, 1.0), "fooled"),
        ("lower", (0.0, 1.0), "sees"),
        ("target", (1.0, 0.0), "sees"),
        ("target", (1.1, 1.5), "sees"),
        ("target", (0.5, 1.1), "fooled"),
        ("descriptive", (0.0, 1.0), "moves"),
        ("lower", (0.0, 0.1), "blind"),
    ],
)
def test_verdicts(better, values, verdict):
    levels = [_Value(value, 0.1, better, 1.0 if better == "target" else None) for value in values]
    assert _answer("s", "c", levels).verdict == verdict


def test_a_shift_of_a_ratio_to_truth_is_weighed_by_the_spread_among_harmed_clips():
    levels = [_Value(1.0, 0.0, "target", 1.0), _Value(1.05, 0.1, "target", 1.0)]
    assert _answer("s", "c", levels).verdict == "blind"


def test_scores_answer_as_they_must(tmp_path):
    answers = {(a.score, a.corruption): a for a in examine(8, ("blur", "flicker", "wrong colour"))}
    assert answers["softness", "blur"].monotone == pytest.approx(1)
    assert answers["softness", "blur"].verdict == "sees"
    assert answers["flickering", "flicker"].verdict == "sees"
    assert answers["flickering", "blur"].values[0] <= answers["flickering", "blur"].values[-1]
    assert answers["accuracy-colour", "wrong colour"].monotone == pytest.approx(-1)
    assert answers["flickering", "wrong colour"].verdict == "blind"
    assert all(abs(a.signal) <= CERTAIN and len(a.values) == LEVELS + 1 for a in answers.values())
    plot(list(answers.values()), tmp_path / "exam.png")
    assert (tmp_path / "exam.png").stat().st_size > 10_000
