"""Drift over a long video that is made window by window: curves, their slopes, and the error at the seams.

`drift` reads the frames once and holds one window of them. Each window is scored as the short clip that it is, by
`evals.appearance.measure`, and is compared with the first window in three ways that fail apart: `first-colour` sees
tints and fading, `first-layout` sees the scene change whatever the brightness, and `first-palette` sees colours that
spread or burn out around an unchanged mean.

Slopes come from `evals.trend`. Each interval holds for one curve: of 17 curves without drift, about one has an interval
without 0. A curve that bends has a wide one, since a bend may be the start of a wave: read its values too.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from evals.appearance import MEASURES, THUMBNAIL, measure, reduced
from evals.seams import Changes, Seams
from evals.statistics import Estimate
from evals.trend import FEWEST, trend
from magic141.errors import InputError

Frame = NDArray[np.uint8]
Array = NDArray[np.float64]

SIMILARITIES = {
    "first-colour": "CIE76",  # distance of mean colours: 0 is the same
    "first-layout": "correlation",  # of luma thumbnails of the mean frames: 1 is the same
    "first-palette": "fraction",  # common part of two histograms of 8x8x8 colours: 1 is the same
}
"""Curves that compare a window with the first, and their units."""
UNITS = {name: m.unit for name, m in MEASURES.items() if not name.endswith("-drift")} | SIMILARITIES
"""Every curve and its unit. The drifts inside a window are left out: the slope says that over the whole video."""


@dataclass(frozen=True)
class Slope:
    """Least-squares slope with its 95 % interval over `n` windows; `per` is "minute" or "100 frames"."""

    value: float
    low: float
    high: float
    n: int
    per: str


@dataclass(frozen=True)
class Curve:
    """One score by window: values (windows,). `slope` is None where `reason` says why."""

    name: str
    unit: str
    values: Array
    slope: Slope | None
    reason: str = ""


@dataclass(frozen=True)
class Drift:
    """What `drift` found in one video.

    Attributes:
        frames: frames in whole windows; `left_out` more at the end filled no window.
        starts: (windows,) first frame of each window.
        curves: by name, in the order of `UNITS`.
        seams: "change" (mean absolute difference at native size) and "warp-error" (what is left of it once motion is
            undone, on the working picture); empty where `notes` says why.
    """

    window: int
    stride: int
    fps: float | None
    frames: int
    left_out: int
    starts: NDArray[np.int64]
    curves: dict[str, Curve]
    seams: dict[str, Seams]
    notes: tuple[str, ...]


def drift(
    frames: Iterable[Frame], *, window: int, stride: int | None = None, fps: float | None = None
) -> Drift:
    """Drift of one video in one pass; memory is that of one window, however long the video.

    Window k holds the frames from k * stride to k * stride + window. The generator makes `stride` new frames a window,
    so that the seams lie before the frames window, window + stride, and so on.

    Args:
        frames: uint8 (H, W, 3) RGB in order. A decoder must not reuse the memory of the last `window` frames.
        window: frames in a window, at least 2.
        stride: new frames in a window, 1 to `window`; as many where None.
        fps: frames per second; slopes are per minute then, per 100 frames where None.

    Raises:
        InputError: window, stride or fps out of range; fewer frames than one window; frames that `measure` refuses.
    """
    stride = window if stride is None else stride
    _check_types(window=window, stride=stride, fps=fps)
    if window < 2:
        raise InputError(f"a window needs at least 2 frames, got {window}; give the frames of one pass")
    if not 1 <= stride <= window:
        raise InputError(
            f"stride must be 1 to window={window}, got {stride}; give the new frames of a window"
        )
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise InputError(f"fps must be positive, got {fps}; leave it out where it is unknown")
    kept = {name: array("d") for name in UNITS}
    changes = Changes()
    first: _Look | None = None
    cutter = _Cutter(window, stride)
    for block in cutter.blocks(frames):
        found = measure(block)
        look = _look(block)
        first = first or look
        found |= zip(SIMILARITIES, _similar(first, look), strict=True)
        for name, values in kept.items():
            values.append(found[name])
        changes.add(block if look is first else block[-stride:])
    windows = len(kept["brightness"])
    if not windows:
        raise InputError(
            f"{cutter.taken} frames fill no window of {window}; give a longer video or a shorter window"
        )
    scale, per = (100.0, "100 frames") if fps is None else (60.0 * fps, "minute")
    curves = {name: _curve(name, np.asarray(values), scale / stride, per) for name, values in kept.items()}
    whole = window + (windows - 1) * stride
    left_out = cutter.taken - whole
    partial = f"the last {left_out} of {cutter.taken} frames fill no window and are left out"
    seamless = ""
    if stride == 1:
        seamless = "no seam error: at stride 1 every change is a seam"
    elif windows == 1:
        seamless = "no seam error: one window has no seam"
    seams = {} if seamless else changes.seams()
    notes = tuple(note for note in (left_out and partial, seamless) if note)
    starts = stride * np.arange(windows, dtype=np.int64)
    return Drift(window, stride, fps, whole, left_out, starts, curves, seams, notes)


def table(found: Drift) -> list[dict[str, str | float | None]]:
    """Rows for a report: the slope of every curve, then difference and ratio of both seam errors.

    Keys: what, name, first, last (values of the first and last window; inside and across for seams), value, low,
    high (None where there is none), unit, note.
    """
    rows: list[dict[str, str | float | None]] = []
    for curve in found.curves.values():
        ends = (float(curve.values[0]), float(curve.values[-1]))
        unit = f"{curve.unit} per {curve.slope.per}".strip() if curve.slope else curve.unit
        rows.append(_row("slope", curve.name, ends, curve.slope, unit, curve.reason))
    for name, seams in found.seams.items():
        ends = (seams.inside, seams.across)
        note = "" if seams.ratio else "nothing moves inside windows"
        rows.append(_row("seam difference", name, ends, seams.difference, "grey levels", ""))
        rows.append(_row("seam ratio", name, ends, seams.ratio, "", note))
    return rows


def _row(
    what: str, name: str, ends: tuple[float, float], found: Slope | Estimate | None, unit: str, note: str
) -> dict[str, str | float | None]:
    numbers = (found.value, found.low, found.high) if found else (math.nan,) * 3
    value, low, high = (number if math.isfinite(number) else None for number in numbers)
    ranged = {"value": value, "low": low, "high": high}
    return {
        "what": what,
        "name": name,
        "first": ends[0],
        "last": ends[1],
        **ranged,
        "unit": unit,
        "note": note,
    }


class _Cutter:
    """Cuts a stream into whole windows, and counts the frames `taken`."""

    def __init__(self, window: int, stride: int) -> None:
        self._window, self._stride = window, stride
        self.taken = 0

    def blocks(self, frames: Iterable[Frame]) -> Iterator[list[Frame]]:
        held: deque[Frame] = deque(maxlen=self._window)
        shape: tuple[int, ...] | None = None
        for frame in frames:
            if shape is not None and frame.shape != shape:
                raise InputError(f"frames change shape from {shape} to {frame.shape}; resize the video")
            shape = frame.shape
            held.append(frame)
            self.taken += 1
            if self.taken >= self._window and (self.taken - self._window) % self._stride == 0:
                yield list(held)


class _Look(NamedTuple):
    """A window as the later ones are compared with it."""

    colour: tuple[float, ...]
    luma: Array
    shares: Array


def _look(block: list[Frame]) -> _Look:
    thumbnails = [reduced(np.ascontiguousarray(frame), THUMBNAIL) for frame in block]
    mean = np.mean(thumbnails, axis=0, dtype=np.float32)
    counts = sum(cv2.calcHist([i], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3) for i in thumbnails)
    colour = cv2.mean(cv2.cvtColor(mean / 255, cv2.COLOR_RGB2LAB))[:3]
    luma = cv2.cvtColor(mean, cv2.COLOR_RGB2GRAY).astype(np.float64)
    return _Look(colour, luma, counts / counts.sum())


def _similar(first: _Look, look: _Look) -> tuple[float, float, float]:
    a, b = first.luma - first.luma.mean(), look.luma - look.luma.mean()
    flat = [float(np.abs(i).max()) < 0.5 for i in (a, b)]
    # A flat picture has no layout: like another flat one, and unlike all else.
    layout = (
        float(all(flat)) if any(flat) else float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))
    )
    return math.dist(first.colour, look.colour), layout, float(np.minimum(first.shares, look.shares).sum())


def _check_types(window: object, stride: object, fps: object) -> None:
    for name, count in (("window", window), ("stride", stride)):
        if isinstance(count, bool) or not isinstance(count, Integral):
            raise InputError(f"{name}={count!r} must be a whole number of frames")
    if fps is not None and not isinstance(fps, Real):
        raise InputError(f"fps={fps!r} must be a number; leave it out where it is unknown")


def _curve(name: str, values: Array, scale: float, per: str) -> Curve:
    # The first window equals itself: as a point of the line it would be an outlier in every video.
    used = values[1:] if name in SIMILARITIES else values
    if len(used) < FEWEST:
        needed = FEWEST + len(values) - len(used)
        reason = f"a slope needs at least {needed} windows, got {len(values)}"
        return Curve(name, UNITS[name], values, None, reason)
    value, low, high, n = trend(used)
    return Curve(name, UNITS[name], values, Slope(value * scale, low * scale, high * scale, n, per))
