"""What changes from frame to frame: flicker, optical flow, error after the motion is undone, frozen pairs and cuts.

Flicker and flow are measured at native size, as their publications do. All else is measured on the *working picture*
(short side at most `evals.appearance.SIDE`), where clips of different sizes compare and time is saved.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Flow = NDArray[np.float32]

TOP = 0.05
"""Share of the pixels, the fastest ones, that the dynamic degree averages: as VBench takes it."""
SMOOTH, CHANGE = 7, 3
"""A pixel counts as changed where its mean over 7x7 differs by more than 3 grey levels: noise of standard deviation 3
averages out, and the slowest fog of the lab, which a threshold on single pixels misses, does not."""
STILL = 1e-3
"""A pair of frames is frozen where a smaller share of its pixels has changed: 4 pixels in 64x64."""
CUT_FLOOR, CUT_FACTOR = 12.0, 5.0
"""A cut changes thumbnails by more than so many grey levels, and so many times more than the clip's usual pair: a
clip that is fast throughout has a high usual change, and one that rests has the floor."""


class _Seen(NamedTuple):
    """One frame in all the forms that its successor is compared with."""

    frame: Frame
    grey: Frame
    picture: Frame
    small: Frame
    smooth: Frame
    thumbnail: NDArray[np.float32]


class Dynamics:
    """Takes the frames of one clip in order; keeps the last and the first picture, and a few floats a pair."""

    def __init__(self) -> None:
        self._native = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._forward = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._backward = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._first: Frame | None = None
        self._last: _Seen | None = None
        self._sums = dict.fromkeys(("difference", "flow", "fast", "warp"), 0.0)
        self._frozen = 0
        self._departure = 0.0
        self._jumps = array("d")

    def add(self, frame: Frame, picture: Frame, thumbnail: NDArray[np.float32]) -> None:
        """Take one frame (H, W, 3), its working picture (h, w, 3) and its thumbnail, all of constant sizes."""
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        small = grey if picture.shape == frame.shape else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        now = _Seen(frame, grey, picture, small, cv2.blur(picture, (SMOOTH, SMOOTH)), thumbnail)
        if self._first is None or self._last is None:
            self._first = now.smooth
        else:
            self._pair(self._last, now)
            self._departure = max(self._departure, changed(self._first, now.smooth))
        self._last = now

    def _pair(self, a: _Seen, b: _Seen) -> None:
        self._sums["difference"] += float(cv2.absdiff(b.frame, a.frame).mean(dtype=np.float64))
        field = self._native.calc(a.grey, b.grey, None)
        speed = cv2.magnitude(field[..., 0], field[..., 1])
        self._sums["flow"] += float(speed.mean())
        fastest = max(1, int(TOP * speed.size))
        top = np.partition(speed, speed.size - fastest, axis=None)[-fastest:]
        self._sums["fast"] += float(top.mean()) / min(speed.shape)
        if b.small is not b.grey:
            field = self._forward.calc(a.small, b.small, None)
        back = self._backward.calc(b.small, a.small, None)
        self._sums["warp"] += warp_error(a.picture, b.picture, field, back)
        self._frozen += changed(a.smooth, b.smooth) < STILL
        self._jumps.append(float(cv2.absdiff(b.thumbnail, a.thumbnail).mean()))

    def numbers(self) -> dict[str, float]:
        """The measures of the clip, by the names of `evals.appearance.MEASURES`; at least 2 frames were taken."""
        pairs = len(self._jumps)
        mean = {name: total / pairs for name, total in self._sums.items()}
        usual = float(np.median(self._jumps))
        limit = max(CUT_FLOOR, CUT_FACTOR * usual)
        return {
            "flickering": (255.0 - mean["difference"]) / 255.0,
            "flow": mean["flow"],
            "dynamic-degree": 100 * mean["fast"],
            "warp-error": mean["warp"],
            "frozen-share": self._frozen / pairs,
            "departure": self._departure,
            "cuts": float(sum(jump > limit for jump in self._jumps)),
        }


def changed(a: Frame, b: Frame) -> float:
    """Share of the pixels of two smoothed pictures (h, w, 3) that differ by more than `CHANGE` in a channel."""
    return float(np.count_nonzero(widest(cv2.absdiff(a, b)) > CHANGE)) / (a.shape[0] * a.shape[1])


def widest(image: NDArray) -> NDArray:
    """The greatest of three channels: (H, W, 3) to (H, W). Many times faster than a maximum along a short axis."""
    first, second, third = cv2.split(image)
    return cv2.max(cv2.max(first, second), third)


def warp_error(a: Frame, b: Frame, forward: Flow, backward: Flow) -> float:
    """Mean |a - b moved back to a| in grey levels, over the pixels that both flows agree on.

    With F from a to b and B from b to a, x agrees where |F(x) + B(x + F(x))|^2 is below
    0.01 (|F(x)|^2 + |B(x + F(x))|^2) + 0.5 (Sundaram et al. 2010; used so by Lai et al. 2018, "Learning Blind Video
    Temporal Consistency", whose error is squared). Where no pixel agrees, all count.

    Args:
        a, b: uint8 (h, w, 3).
        forward, backward: float32 (h, w, 2) in px.
    """
    height, width = a.shape[:2]
    u, v = cv2.split(forward)
    x = u + np.arange(width, dtype=np.float32)
    y = v + np.arange(height, dtype=np.float32)[:, None]
    warped = cv2.remap(b, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    back_u, back_v = cv2.split(cv2.remap(backward, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    gap = (u + back_u) ** 2 + (v + back_v) ** 2
    agree = gap < 0.01 * (u * u + v * v + back_u * back_u + back_v * back_v) + 0.5
    agree &= (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    mask = agree.astype(np.uint8) if agree.any() else None
    return float(np.mean(cv2.mean(cv2.absdiff(a, warped), mask)[:3]))
