from __future__ import annotations

import math
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from evals.drift import SIMILARITIES, UNITS, drift, table
from evals.trend import trend
from magic141.errors import InputError


def scene(seed=0, side=24):
    """A picture in 60..189, so that 60 grey levels more or less do not clip."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(60, 190, (side // 8, side // 8, 3)), np.ones((8, 8, 1))).astype(np.int16)


def noisy(count, seed=0, jump=0, every=8, side=24, sigma=4):
    """A still scene under noise; every `every` frames all of it moves by `jump` grey levels, up and down in turn."""
    rng = np.random.default_rng(seed)
    picture = scene(seed, side)
    for t in range(count):
        shift = jump * (t // every % 2)
        yield (picture + shift + np.rint(rng.normal(0, sigma, picture.shape))).clip(0, 255).astype(np.uint8)


def holds(found, value):
    return found.low <= value <= found.high


def test_a_constant_scene_has_no_slope_and_no_seam_error():
    found = drift([scene().astype(np.uint8)] * 26, window=4, fps=24)
    assert list(found.curves) == list(UNITS)
    assert len(found.starts) == 6
    assert found.left_out == 2
    assert found.notes == ("the last 2 of 26 frames fill no window and are left out",)
    for curve in found.curves.values():
        assert (curve.slope.value, curve.slope.low, curve.slope.high) == pytest.approx((0, 0, 0), abs=1e-6)
    assert found.curves["first-colour"].values == pytest.approx(0)
    assert found.curves["first-layout"].values == pytest.approx(1)
    assert found.curves["first-palette"].values == pytest.approx(1)
    for seams in found.seams.values():
        assert seams.difference[:3] == (0, 0, 0)
        assert seams.ratio is None


@pytest.mark.parametrize(("fps", "scale", "per"), [(None, 100, "100 frames"), (10, 600, "minute")])
@pytest.mark.parametrize("stride", [4, 3])
def test_a_scene_that_brightens_has_the_known_slope(fps, scale, per, stride):
    rng = np.random.default_rng(1)
    stream = [(scene() + round(0.5 * t + rng.normal())).astype(np.uint8) for t in range(64)]
    found = drift(stream, window=4, stride=stride, fps=fps)
    assert list(found.starts[:3]) == [0, stride, 2 * stride]
    slope = found.curves["brightness"].slope
    assert slope.per == per
    assert holds(slope, 0.5 * scale)
    assert slope.value == pytest.approx(0.5 * scale, rel=0.05)
    assert slope.low > 0
    assert found.curves["first-colour"].slope.low > 0
    assert found.curves["first-layout"].values == pytest.approx(1, abs=1e-3)


def test_a_scene_that_dissolves_into_another_loses_its_layout_and_palette():
    shares = np.linspace(0, 1, 48)
    old, new = (scene(seed, side=96) for seed in (1, 2))
    stream = [((1 - s) * old + s * new).astype(np.uint8) for s in shares]
    found = drift(stream, window=4)
    for name in ("first-layout", "first-palette"):
        assert found.curves[name].values[0] == pytest.approx(1)
        assert found.curves[name].values[-1] < 0.8
        assert found.curves[name].slope.value < 0
        assert found.curves[name].slope.n == len(found.starts) - 1


@pytest.mark.parametrize("count", [8, 12, 40])
@pytest.mark.parametrize(("rho", "least"), [(0, 0.92), (0.3, 0.92), (0.6, 0.92), (0.8, 0.88)])
def test_intervals_of_autocorrelated_curves_hold_the_truth(count, rho, least):
    rng = np.random.default_rng(count)
    series = lfilter([1], [1, -rho], rng.standard_normal((500, count + 100)), axis=1)[:, 100:]
    line = 0.7 * np.arange(count)
    assert least <= np.mean([holds(trend(y + line), 0.7) for y in series]) <= 0.985


def test_a_trend_is_the_least_squares_slope():
    y = np.random.default_rng(0).normal(size=40)
    assert trend(y).value == pytest.approx(np.polyfit(np.arange(40), y, 1)[0])
    assert trend(np.arange(5000.0)).value == pytest.approx(1)
    assert math.isfinite(trend([1, 2, 4]).high)
    with pytest.raises(InputError, match="at least 3 values, got 2"):
        trend([1, 2])


@settings(max_examples=50)
@given(
    y=st.lists(st.floats(-100, 100), min_size=3, max_size=40),
    shift=st.floats(-100, 100),
    factor=st.sampled_from([-2.0, 0.5, 4.0]),
)
def test_slopes_ignore_a_constant_and_scale_with_the_curve(y, shift, factor):
    found, other = trend(y), trend(shift + factor * np.asarray(y))
    assert other.value == pytest.approx(factor * found.value, abs=1e-9)
    assert other.high - other.low == pytest.approx(abs(factor) * (found.high - found.low), abs=1e-5)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 999), shift=st.integers(-40, 40))
def test_a_constant_brightness_leaves_slopes_and_seams(seed, shift):
    stream = list(noisy(16, seed, jump=4, every=4))
    found = drift(stream, window=4)
    moved = drift([(frame + np.int16(shift)).astype(np.uint8) for frame in stream], window=4)
    for name in ("brightness", "contrast", "highlight", "flickering"):
        assert moved.curves[name].slope.value == pytest.approx(found.curves[name].slope.value, abs=1e-6)
    assert moved.curves["brightness"].values == pytest.approx(found.curves["brightness"].values + shift)
    assert moved.seams["change"].difference == pytest.approx(found.seams["change"].difference)


def test_a_jump_at_every_seam_is_a_seam_error_of_its_size():
    for seams in drift(noisy(40, jump=30, sigma=0), window=8).seams.values():
        assert seams.across == seams.difference.value == pytest.approx(30, abs=0.01)
        assert seams.inside == 0
        assert seams.ratio is None
    found = drift(noisy(80, jump=30), window=8).seams["change"]
    expected = np.abs(np.random.default_rng(9).normal(30, 4 * math.sqrt(2), 100000)).mean()
    inside = 4 * 2 / math.sqrt(math.pi)
    assert found.difference.n == 9
    assert found.difference.value == pytest.approx(expected - inside, rel=0.02)
    assert found.ratio.value == pytest.approx(expected / inside, rel=0.03)
    assert holds(found.difference, expected - inside)
    assert holds(found.ratio, expected / inside)


def test_a_jump_before_the_new_frames_of_overlapping_windows_is_a_seam():
    shifts = [30 * ((max(t, 4) - 4) // 4 % 2) for t in range(48)]
    stream = [(scene() + shift).astype(np.uint8) for shift in shifts]
    seams = drift(stream, window=8, stride=4).seams["change"]
    assert seams.difference[:3] == (30, 30, 30)
    assert seams.inside == 0


def test_one_pass_has_no_seam_error():
    found = [drift(noisy(48, seed), window=8).seams for seed in range(12)]
    for name in ("change", "warp-error"):
        assert sum(holds(seams[name].difference, 0) for seams in found) >= 10
        assert sum(holds(seams[name].ratio, 1) for seams in found) >= 10


def test_motion_that_flow_follows_leaves_a_seam_to_see():
    texture = cv2.resize(np.random.default_rng(0).integers(60, 190, (12, 40, 3)).astype(np.uint8), (320, 96))
    stream = [texture[:, 2 * t : 2 * t + 96] + np.uint8(10 * (t // 8 % 2)) for t in range(40)]
    seams = drift(stream, window=8).seams
    assert seams["warp-error"].difference.value == pytest.approx(10, abs=1)
    assert seams["warp-error"].ratio.value > 2 * seams["change"].ratio.value


def test_few_windows_have_no_slope_and_say_so():
    two = drift(noisy(16), window=8)
    assert "at least 3 windows, got 2" in two.curves["brightness"].reason
    assert all(curve.slope is None for curve in two.curves.values())
    assert math.isnan(two.seams["change"].difference.low)
    three = drift(noisy(24), window=8)
    assert three.curves["brightness"].slope is not None
    assert "at least 4 windows, got 3" in three.curves["first-colour"].reason
    one = drift(noisy(9), window=8)
    assert not one.seams
    assert one.notes[1] == "no seam error: one window has no seam"
    single = drift(noisy(10), window=8, stride=1)
    assert not single.seams
    assert single.curves["brightness"].slope.n == 3


def test_a_table_has_a_row_for_every_number():
    rows = table(drift(noisy(16, jump=20, every=4), window=4, fps=24))
    assert len({tuple(row) for row in rows}) == 1
    assert [row["name"] for row in rows if row["what"] == "slope"] == list(UNITS)
    assert rows[0]["unit"] == "fraction per minute"
    assert [row["what"] for row in rows[-2:]] == ["seam difference", "seam ratio"]
    assert rows[-1]["last"] > rows[-1]["first"]
    bare = table(drift(noisy(8), window=4))
    assert all(row["value"] is None and row["note"] for row in bare if row["what"] == "slope")
    assert bare[-1]["low"] is None


def test_memory_does_not_grow_with_the_video():
    def peak(windows):
        tracemalloc.start()
        drift(noisy(8 * windows, side=64), window=8)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(5)
    assert peak(50) < 1.1 * peak(5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"window": 1}, "at least 2 frames, got 1"),
        ({"window": 4, "stride": 0}, "window=4, got 0"),
        ({"window": 4, "stride": 5}, "window=4, got 5"),
        ({"window": 4, "fps": 0}, "fps must be positive"),
        ({"window": 4, "fps": math.nan}, "fps must be positive"),
        ({"window": 4, "fps": "16"}, "fps='16' must be a number"),
        ({"window": 4.0}, "window=4.0 must be a whole number of frames"),
        ({"window": 4, "stride": True}, "stride=True must be a whole number of frames"),
        ({"window": 17}, "16 frames fill no window of 17"),
    ],
)
def test_settings_out_of_range_are_named(settings, says):
    with pytest.raises(InputError, match=says):
        drift(noisy(16), **settings)


@pytest.mark.parametrize("at", [2, 4, 9])
def test_frames_that_change_shape_are_refused(at):
    with pytest.raises(InputError, match="change shape"):
        drift([*noisy(at), *noisy(12 - at, side=32)], window=4)


def test_frames_that_are_no_pictures_are_refused():
    for stream in (np.zeros((8, 24, 24, 3), np.float32), np.zeros((8, 24, 24), np.uint8)):
        with pytest.raises(InputError, match="uint8"):
            drift(stream, window=4)
    assert set(SIMILARITIES) < set(UNITS)
