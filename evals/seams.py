"""The error at the seams of a video that is made window by window: change across them against change inside."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from evals.appearance import SIDE, reduced
from evals.dynamics import warp_error
from evals.statistics import Estimate
from evals.trend import series

Frame = NDArray[np.uint8]

_ROUNDING = 1e-9  # grey levels; sums of equal changes differ by less


@dataclass(frozen=True)
class Seams:
    """Change across seams against change inside windows, in grey levels.

    Attributes:
        across: mean change from the last frame before a seam to the first after it.
        inside: mean change of consecutive frames in the two stretches that meet at a seam, each with the same say.
        difference: mean of across - inside over the seams, with a 95 % interval (NaN at 1 seam).
        ratio: across / inside; None where nothing moves inside.
    """

    across: float
    inside: float
    difference: Estimate
    ratio: Estimate | None


class Changes:
    """Takes the new frames of each window; keeps the last frame, and four floats a window."""

    def __init__(self) -> None:
        self._forward = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._backward = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._last: tuple[Frame, Frame, Frame] | None = None
        self._across: dict[str, array[float]] = {"change": array("d"), "warp-error": array("d")}
        self._inside: dict[str, array[float]] = {"change": array("d"), "warp-error": array("d")}

    def add(self, block: list[Frame]) -> None:
        seam = self._last is not None
        found = [pair for frame in block if (pair := self._step(frame))]
        for name, values in zip(self._across, zip(*found, strict=True), strict=True):
            if seam:
                self._across[name].append(values[0])
            rest = values[seam:]
            self._inside[name].append(sum(rest) / len(rest) if rest else math.nan)

    def _step(self, given: Frame) -> tuple[float, float] | None:
        frame = np.ascontiguousarray(given)
        picture = reduced(frame, SIDE)
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        before, self._last = self._last, (frame, picture, grey)
        if before is None:
            return None
        change = float(cv2.absdiff(frame, before[0]).mean(dtype=np.float64))
        forward = self._forward.calc(before[2], grey, None)
        backward = self._backward.calc(grey, before[2], None)
        return change, warp_error(before[1], picture, forward, backward)

    def seams(self) -> dict[str, Seams]:
        found = {}
        for name, values in self._across.items():
            across, stretches = np.asarray(values), np.asarray(self._inside[name])
            # Both neighbours, so that motion that grows steadily is no seam error.
            inside = (stretches[:-1] + stretches[1:]) / 2
            gaps = across - inside
            gaps[np.abs(gaps) < _ROUNDING] = 0
            over, under = float(across.mean()), float(inside.mean())
            ratio = None
            if under > _ROUNDING:
                # Delta method: the ratio moves with these as a mean moves with its values.
                spread = series((across - over / under * inside) / under, 0)
                ratio = Estimate(
                    over / under, over / under + spread.low, over / under + spread.high, len(gaps)
                )
            found[name] = Seams(over, under, series(gaps, 0), ratio)
        return found
