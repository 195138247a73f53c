import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magic141.data.world import (
    BACKGROUNDS,
    COLOURS,
    DIRECTIONS,
    FRAME_SIZE,
    HELD_OUT,
    MOTIONS,
    SHAPES,
    STATING,
    VOCABULARY,
    World,
    heading,
)
from magic141.errors import InputError

INDICES = st.integers(0, 10**6)


@given(INDICES, st.sampled_from(("train", "validation", "test", "compositional")))
@settings(max_examples=40, deadline=None)
def test_a_scene_is_a_function_of_split_and_index(index, split):
    assert World().scene(split, index) == World().scene(split, index)


def test_splits_share_no_scene():
    seeds = [
        {scene.seed for scene in World().scenes(split, 0, 300)} for split in ("train", "validation", "test")
    ]
    assert not seeds[0] & seeds[1]
    assert not seeds[0] & seeds[2]
    assert not seeds[1] & seeds[2]


def test_only_the_compositional_split_shows_held_out_pairs():
    def pairs(split):
        return {(COLOURS[s.subject.colour], SHAPES[s.subject.shape]) for s in World().scenes(split, 0, 1500)}

    assert pairs("compositional") == set(HELD_OUT)
    assert not pairs("train") & set(HELD_OUT)
    assert not pairs("test") & set(HELD_OUT)


@given(INDICES, st.sampled_from((0.0, 0.5, 1.0)), st.integers(0, 90))
@settings(max_examples=150, deadline=None)
def test_captions_use_the_vocabulary_and_fit_38_words(index, stated, start):
    words = World(stated=stated).scene("test", index).caption(start).split()
    assert set(words) <= set(VOCABULARY)
    assert len(words) <= 38


def test_words_that_state_are_in_no_caption_that_states_nothing_and_all_are_in_some_that_does():
    said = [
        {word for scene in World(stated=stated).scenes("train", 0, 3000) for word in scene.caption().split()}
        for stated in (0.0, 1.0)
    ]
    assert not said[0] & STATING
    assert said[1] >= STATING


def test_captions_say_more_as_the_dial_rises():
    lengths = [
        np.mean([len(scene.caption().split()) for scene in World(stated=stated).scenes("test", 0, 400)])
        for stated in (0.0, 0.5, 1.0)
    ]
    assert lengths[0] < lengths[1] < lengths[2]


def test_the_dial_changes_captions_and_nothing_else():
    quiet, told = (World(stated=stated).scene("test", 5) for stated in (0.0, 1.0))
    assert dataclasses.replace(told, stated=quiet.stated) == quiet


@given(INDICES, st.integers(0, 90))
@settings(max_examples=50, deadline=None)
def test_a_terse_caption_names_the_subject_and_labels_say_no_more(index, start):
    full, terse = (World(terse=terse).scene("test", index) for terse in (False, True))
    assert dataclasses.replace(terse, terse=False) == full
    assert terse.caption(start) == " ".join(full.caption(start).split()[:4])
    said = {name: label for name, label in terse.labels(start).items() if label >= 0}
    assert said == {name: full.labels(start)[name] for name in ("shape", "colour", "size")}


def test_a_terse_caption_states_nothing():
    with pytest.raises(InputError, match=r"stated=0.5, terse=True\): a terse caption states nothing"):
        World(stated=0.5, terse=True)


def test_events_can_be_switched_off():
    for scene in World(events=False).scenes("test", 0, 300):
        assert scene.late is None
        assert scene.motion.turn_every == 0
        assert scene.direction_said


@given(INDICES)
@settings(max_examples=60, deadline=None)
def test_every_object_stays_in_the_frame_for_a_minute(index):
    truth = World().scene("test", index).truth(960)
    radius = truth.radii[..., None]
    assert (truth.positions - radius > -0.01).all()
    assert (truth.positions + radius < FRAME_SIZE + 0.01).all()


@given(INDICES, st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_the_truth_of_a_window_is_a_window_of_the_truth(index, start):
    scene = World().scene("test", index)
    whole, window = scene.truth(100), scene.truth(33, start)
    for field in dataclasses.fields(whole):
        part = getattr(whole, field.name)[start : start + 33]
        np.testing.assert_allclose(getattr(window, field.name), part, atol=1e-9)


def test_a_labelled_direction_is_the_initial_motion_and_never_bounces_in_8_frames():
    labelled = 0
    for scene in World().scenes("test", 0, 400):
        direction = scene.labels()["direction"]
        if direction >= 0:
            labelled += 1
            steps = scene.truth(9).velocity[:8, 0]
            assert all(heading(step) == direction for step in steps)
            assert DIRECTIONS[direction] in scene.caption()
            assert MOTIONS[scene.motion.law] == "drift"
    assert labelled > 40


def test_every_drift_that_says_its_direction_is_identifiable_from_its_start():
    for scene in World().scenes("test", 0, 400):
        if MOTIONS[scene.motion.law] == "drift" and scene.direction_said:
            assert scene.labels()["direction"] >= 0


def test_no_camera_pans_over_a_flat_background():
    flat = [BACKGROUNDS.index("solid"), BACKGROUNDS.index("gradient")]
    scenes = World().scenes("test", 0, 400)
    assert any(scene.pan != (0.0, 0.0) for scene in scenes)
    assert all(scene.pan == (0.0, 0.0) for scene in scenes if scene.backdrop.kind in flat)


@pytest.mark.parametrize("bad", [{"stated": -0.1}, {"stated": 2}, {"moving_texture": 1.5}])
def test_a_share_outside_0_to_1_is_refused(bad):
    with pytest.raises(InputError, match="between 0 and 1"):
        World(**bad)


def test_unknown_splits_and_negative_indices_are_refused():
    with pytest.raises(InputError, match="unknown split 'dev'"):
        World().scene("dev", 0)
    with pytest.raises(InputError, match="negative"):
        World().scene("test", -1)
