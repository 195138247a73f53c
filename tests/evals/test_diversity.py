"""Diversity, on positions whose variance is known and on clips whose end is known."""

import numpy as np
import pytest

from evals.diversity import final_position, is_open, variance_ratio, variances
from magic141.data.factors import MOTIONS
from magic141.data.render import render
from magic141.data.world import World
from magic141.errors import InputError

WORLD = World(events=False)


@pytest.fixture(scope="module")
def open_scenes():
    return [scene for scene in WORLD.scenes("validation", 0, 200) if is_open(scene)][:64]


def positions(scenes, spread, seed, seeds=16):
    """Normal around a place of each scene, with a spread of its own times `spread`."""
    rng = np.random.default_rng(seed)
    own = np.random.default_rng(0).uniform(1, 8, (len(scenes), 1, 1))
    return 32 + spread * own * rng.standard_normal((len(scenes), seeds, 2))


def test_variance_is_the_trace_of_the_unbiased_covariance():
    found = positions(range(5), 1.0, seed=1)
    expected = [np.trace(np.cov(prompt.T)) for prompt in found]
    np.testing.assert_allclose(variances(found), expected)


def test_clips_without_a_subject_do_not_count():
    found = positions(range(3), 1.0, seed=1)
    holes = found.copy()
    holes[0, 10:] = np.nan
    holes[1, 1:] = np.nan
    assert variances(holes)[0] == pytest.approx(variances(found[:1, :10])[0])
    assert np.isnan(variances(holes)[1])
    assert variances(holes)[2] == pytest.approx(variances(found)[2])


@pytest.mark.parametrize("spread", [0.5, 0.9, 1.0, 1.3])
def test_the_ratio_is_that_of_the_variances_and_lies_in_its_interval(open_scenes, spread):
    found = variance_ratio(positions(open_scenes, spread, 1), positions(open_scenes, 1.0, 2), open_scenes)
    assert found.ratio.low < spread**2 < found.ratio.high
    assert found.ratio.high - found.ratio.low < 0.6 * spread**2
    assert found.ratio.n == len(open_scenes)
    assert found.found == (1.0, 1.0)


def test_a_prompt_in_which_nothing_varies_has_no_say(open_scenes):
    teacher, student = positions(open_scenes, 1.0, 1), positions(open_scenes, 1.0, 2)
    before = variance_ratio(student, teacher, open_scenes).ratio.value
    for each, size in ((teacher, 1e-6), (student, 1e-3)):  # a ratio of a million for these prompts
        each[:8] = 32 + size * (each[:8] - 32)
    after = variance_ratio(student, teacher, open_scenes).ratio.value
    assert after == pytest.approx(before, rel=0.2)


def test_prompts_are_chosen_by_their_scenes(open_scenes):
    """What rests has no part, however much it varies."""
    resting = [s for s in WORLD.scenes("validation", 0, 200) if MOTIONS[s.motion.law] in ("still", "pulse")][
        :8
    ]
    scenes = [*open_scenes, *resting]
    student, teacher = positions(scenes, 1.0, 1), positions(scenes, 1.0, 2)
    student[len(open_scenes) :] *= 100
    found = variance_ratio(student, teacher, scenes)
    assert found.ratio.n == len(open_scenes)
    assert found.ratio.value < 2


def test_a_stated_speed_leaves_nothing_open():
    told = World(stated=1.0).scenes("validation", 0, 20)
    assert not any(is_open(scene) for scene in told)


def test_the_end_of_a_true_clip_is_found():
    scenes = [s for s in WORLD.scenes("validation", 0, 60) if s.late is None][:12]
    ends = np.array(
        [final_position(clip, scene) for clip, scene in zip(render(scenes, 33).numpy(), scenes, strict=True)]
    )
    truth = np.array([np.median(scene.truth(33).positions[-4:, 0], axis=0) for scene in scenes])
    assert np.median(np.linalg.norm(ends - truth, axis=1)) < 1.0


def test_an_empty_clip_has_no_end():
    (scene,) = WORLD.scenes("validation", 0, 1)
    assert np.isnan(final_position(np.full((33, 64, 64, 3), 128, np.uint8), scene)).all()


def test_what_cannot_be_compared_says_why(open_scenes):
    good = positions(open_scenes, 1.0, 1)
    with pytest.raises(InputError, match="positions of the teacher have shape"):
        variance_ratio(good, good[1:], open_scenes)
    with pytest.raises(InputError, match="none is open"):
        variance_ratio(good[:, :1], good, open_scenes)
    with pytest.raises(InputError, match="no diversity to keep"):
        variance_ratio(good, 0 * good, open_scenes)
