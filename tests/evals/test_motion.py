from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evals import motion
from evals.catalogue import CENTRES
from magic141.data.factors import MOTIONS
from magic141.data.world import World
from magic141.errors import InputError


def law(name, **changes):
    """The first test scene of a motion law, alone in view and without turns."""
    for scene in World(events=False).scenes("test", 0, 200):
        if MOTIONS[scene.motion.law] == name:
            return replace(scene, motion=replace(scene.motion, **changes))
    raise AssertionError(name)


def test_straight_flight_moves_at_its_speed():
    track = np.array([3.0, 5.0]) + np.arange(8)[:, None] * motion.LAG * np.array([0.6, -0.8])
    assert motion.displacement(track) == pytest.approx(1.0)
    assert motion.displacement(np.stack([track, track[:1].repeat(8, 0)])) == pytest.approx([1.0, 0.0])


def test_scene_truth_is_its_speed_before_walls_and_turns():
    scene = law("drift", speed=0.45, place=(32.0, 32.0), direction=2)
    assert motion.true_displacement(scene) == pytest.approx(0.45, rel=1e-6)


def test_circles_are_chords():
    scene = law("orbit", swing=10.0, period=20.0)
    assert motion.true_displacement(scene) == pytest.approx(
        2 * 10 * np.sin(np.pi * motion.LAG / 20) / motion.LAG
    )


@pytest.mark.parametrize("name", ["still", "pulse"])
def test_scenes_at_rest_have_nothing_to_divide_by(name):
    assert np.isnan(motion.true_displacement(law(name)))


def test_scenes_with_a_second_object_in_view_are_left_out():
    scenes = [s for s in World().scenes("test", 0, 400) if s.late is not None and s.motion.speed > 0]
    early = [s for s in scenes if s.truth(33).visible[:, 1].any()]
    assert early
    assert all(np.isnan(motion.true_displacement(s)) for s in early)


def test_a_subject_of_which_nothing_is_asked_has_nothing_to_divide_by():
    assert np.isnan(motion.true_displacement(replace(law("drift"), terse=True)))


def test_track_points_are_frames_of_generated_video():
    assert CENTRES == (3, 7, 11, 15, 19, 23, 27, 31)


def test_flow_sees_a_shift(rng):
    noise = np.kron(rng.integers(0, 255, (40, 40)), np.ones((4, 4))).astype(np.uint8)
    frames = [np.repeat(np.roll(noise, 2 * t, axis=1)[:, :, None], 3, axis=2) for t in range(4)]
    assert motion.flow_magnitude(frames) == pytest.approx(2.0, rel=0.15)
    assert motion.flow_magnitude([frames[0]] * 3) < 0.01


def test_an_image_has_no_flow():
    with pytest.raises(InputError, match="at least 2 frames"):
        motion.flow_magnitude(np.zeros((1, 32, 32, 3), np.uint8))
