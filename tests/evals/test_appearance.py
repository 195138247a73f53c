from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.appearance import MEASURES, SIDE, measure, reduced, softness
from evals.clips import find, frames
from evals.dynamics import warp_error
from evals.flicker import temporal_flickering
from evals.motion import flow_magnitude
from magic141.errors import InputError

CLIPS = Path(__file__).parents[2].parent / "shared" / "clips"
ENTRIES = json.loads((CLIPS / "MANIFEST.json").read_text()) if (CLIPS / "MANIFEST.json").exists() else []
QUICK = "animatelcm_svd/000003.mp4"


def blocks(seed=0, height=64, width=80, side=8):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (-(-height // side), -(-width // side), 3))
    return np.kron(small, np.ones((side, side, 1)))[:height, :width].astype(np.uint8)


def moving(count=9, step=2, **shape):
    return [np.roll(blocks(**shape), step * t, axis=1) for t in range(count)]


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(entry, id=entry["file"], marks=() if entry["file"] == QUICK else pytest.mark.slow)
        for entry in ENTRIES
    ],
)
def test_agrees_with_the_references_of_real_clips(entry):
    (source,) = find([CLIPS / entry["file"]])
    found = measure(frames(source))
    expected = entry["reference_values"]
    assert found["flickering"] == pytest.approx(expected["vbench_temporal_flickering"], abs=1e-5)
    assert found["flow"] == pytest.approx(expected["dis_medium_mean_flow_px_per_frame"], rel=0.02)


@pytest.mark.parametrize(("height", "width"), [(64, 80), (300, 340)])
def test_flickering_and_flow_are_those_of_the_lab_scores(height, width):
    clip = moving(3, height=height, width=width)
    found = measure(clip)
    assert found["flickering"] == temporal_flickering(clip)
    assert found["flow"] == pytest.approx(flow_magnitude(clip), rel=1e-5)


def test_names_and_numbers():
    for clip in (moving(3), [np.zeros((16, 400, 3), np.uint8)] * 2, moving(2, height=16, width=16)):
        found = measure(clip)
        assert list(found) == list(MEASURES)
        assert np.isfinite(list(found.values())).all()
    assert all((m.target is not None) == (m.better == "target") and m.meaning for m in MEASURES.values())


@settings(max_examples=20)
@given(seed=st.integers(0, 999), count=st.integers(2, 6), side=st.sampled_from([1, 3, 8, 64]))
def test_a_repeated_frame_is_a_still(seed, count, side):
    found = measure([blocks(seed, side=side)] * count)
    assert found["flickering"] == found["frozen-share"] == 1
    assert found["departure"] == found["cuts"] == found["warp-error"] == 0
    assert found["flow"] == pytest.approx(0, abs=1e-3)
    assert all(abs(found[name]) < 1e-9 for name in found if name.endswith("-drift"))


@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_half_the_brightness_is_half_of_what_depends_on_it(seed):
    clip = [frame // 2 * 2 for frame in moving(3, seed=seed)]
    full, half = measure(clip), measure([frame // 2 for frame in clip])
    assert 1 - half["flickering"] == pytest.approx((1 - full["flickering"]) / 2, rel=1e-9)
    for name in ("brightness", "contrast", "highlight"):
        assert half[name] == pytest.approx(full[name] / 2, abs=0.5)
    assert half["sharpness"] == pytest.approx(full["sharpness"] / 4, rel=0.02)
    assert half["softness"] == pytest.approx(full["softness"], rel=0.01)
    assert half["high-frequency-share"] == pytest.approx(full["high-frequency-share"], rel=0.02)


@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_time_reversed_keeps_pictures_and_turns_drifts(seed):
    clip = [np.roll(blocks(seed), 2 * t, axis=1) // (1 + t) for t in range(5)]
    there, back = measure(clip), measure(clip[::-1])
    for name in ("flickering", "brightness", "sharpness", "softness", "contrast", "colour-drift"):
        assert back[name] == pytest.approx(there[name], rel=1e-9)
    for name in ("brightness-drift", "sharpness-drift"):
        assert back[name] == pytest.approx(-there[name], rel=1e-9)


def test_softness_rises_with_blur_whatever_the_brightness():
    picture = blocks()
    values = [softness(cv2.GaussianBlur(picture, (0, 0), sigma)) for sigma in (0.5, 1, 2, 4)]
    assert softness(picture) < values[0] < values[1] < values[2] < values[3] < 1
    assert softness(np.full((32, 32, 3), 90, np.uint8)) == 1


def test_motion_that_flow_follows_leaves_no_warp_error():
    (a, b), zero = moving(2, step=3), np.zeros((64, 80, 2), np.float32)
    shift = zero + np.array([3, 0], np.float32)
    unmoved = cv2.absdiff(a, b)[:, :77].mean()
    assert warp_error(a, b, shift, -shift) < 0.01 * unmoved
    assert warp_error(a, b, zero, zero) == pytest.approx(cv2.absdiff(a, b).mean(), rel=1e-6)
    assert warp_error(a, b, -shift, -shift) > unmoved  # no pixel agrees: all count


def test_drifts_by_hand():
    grey = [np.full((32, 32, 3), value, np.uint8) for value in (100, 100, 100, 100, 100, 100, 140, 140)]
    found = measure(grey)
    assert found["brightness-drift"] == 40
    assert found["colour-drift"] == pytest.approx(16.0, abs=0.5)  # L* of sRGB 100 is 42.4, of 140 is 58.4
    assert found["sharpness-drift"] == found["colour-entropy"] == found["contrast"] == 0


def test_frozen_pairs_and_cuts_are_counted():
    a, b = blocks(1), blocks(2)
    rng = np.random.default_rng(0)
    noise = rng.integers(-3, 4, (8, *a.shape))
    noisy = np.clip(noise + np.stack([a] * 4 + [b] * 4).astype(int), 0, 255).astype(np.uint8)
    found = measure(noisy)
    assert found["cuts"] == 1
    assert found["frozen-share"] == pytest.approx(6 / 7)
    fast = measure(moving(9, step=16))
    assert fast["cuts"] == fast["frozen-share"] == 0


def test_numbers_of_a_clip_at_twice_the_size_are_alike():
    clip = [cv2.resize(frame, (320, 256)) for frame in moving(2)]
    double = [np.kron(frame, np.ones((2, 2, 1), np.uint8)) for frame in clip]
    small, large = measure(clip), measure(double)
    for name in MEASURES.keys() - {"flow", "dynamic-degree", "flickering"}:
        assert large[name] == pytest.approx(small[name], rel=1e-6, abs=1e-6)
    assert reduced(double[0], SIDE).shape == clip[0].shape


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clip():
    picture = blocks(height=160, width=160)

    def peak(count):
        tracemalloc.start()
        measure(np.roll(picture, t % 16, axis=1) for t in range(count))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(2)
    assert peak(961) < 1.1 * peak(33)


@pytest.mark.parametrize(
    ("clip", "says"),
    [
        ([], "at least 2 frames, got 0"),
        (moving(1), "at least 2 frames, got 1"),
        (np.zeros((3, 1, 1, 3), np.uint8), "too small"),
        (np.zeros((3, 15, 64, 3), np.uint8), "too small"),
        (np.full((3, 32, 32, 3), np.nan, np.float32), "must be uint8 .H, W, 3., got float32"),
        (np.zeros((3, 32, 32), np.uint8), "uint8"),
        ([*moving(1), *moving(1, height=65)], "change shape"),
    ],
)
def test_bad_input_is_named(clip, says):
    with pytest.raises(InputError, match=says):
        measure(clip)
