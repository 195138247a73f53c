"""What the frames of any clip look like and how they change, measured in one pass and without weights.

`measure` takes frames as they are decoded and keeps no more than the last and the first, and 6 numbers of each.
Numbers about the picture itself are taken from the *working picture*, reduced by area to a short side of at most
`SIDE` pixels, so that a clip and the same clip at twice the size score alike. No number stands alone: a still clip has
the best flickering and warp error there is. `evals.panel` says which clips bought their scores that way.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from evals.dynamics import Dynamics, widest
from magic141.errors import InputError

Frame = NDArray[np.uint8]

SIDE = 256
"""Short side in pixels of the working picture."""
THUMBNAIL = 32
"""Short side in pixels of the thumbnail that colours and cuts are seen in."""
SMALLEST = 16
"""Short side in pixels below which nothing is scored: optical flow fails under 12."""
LOW, HIGH = 0.005, 0.995
"""Quantiles that stand for the darkest and the brightest: a few stray pixels are no contrast."""


@dataclass(frozen=True)
class Measure:
    """What a number means. `better` is "descriptive" where neither direction is good in itself."""

    better: Literal["higher", "lower", "target", "descriptive"]
    unit: str
    meaning: str
    target: float | None = None


MEASURES: dict[str, Measure] = {
    "flickering": Measure(
        "higher", "fraction", "1 - mean change of a pixel from frame to frame / 255 (VBench)"
    ),
    "flow": Measure("descriptive", "px/frame", "mean length of optical flow at native size (DIS medium)"),
    "dynamic-degree": Measure(
        "descriptive", "% of short side/frame", "mean length of the fastest 5 % of the flow"
    ),
    "warp-error": Measure(
        "lower", "grey levels", "change that is left once motion is undone by optical flow"
    ),
    "frozen-share": Measure("lower", "fraction", "pairs of frames that differ by no more than coding noise"),
    "departure": Measure(
        "descriptive", "fraction", "pixels changed since the first frame, where that is most"
    ),
    "cuts": Measure("lower", "cuts", "sudden changes of the whole picture"),
    "brightness": Measure("descriptive", "grey levels", "mean luma"),
    "brightness-drift": Measure(
        "target", "grey levels", "mean luma of the last quarter less that of the first", 0.0
    ),
    "colour-drift": Measure("lower", "CIE76", "distance of mean colours, last quarter to first"),
    "sharpness": Measure("descriptive", "grey levels²/px²", "mean squared gradient of luma"),
    "sharpness-drift": Measure("target", "", "ln of sharpness, last quarter to first", 0.0),
    "softness": Measure("lower", "fraction", "part of the strongest edges that survives one more blur"),
    "contrast": Measure("descriptive", "grey levels", "range of the widest colour channel"),
    "highlight": Measure("descriptive", "grey levels", "the brightest half percent starts here"),
    "colour-entropy": Measure("descriptive", "bits", "entropy of a histogram of 8x8x8 colours"),
    "high-frequency-share": Measure(
        "descriptive", "fraction", "variance of luma that a blur of 1 px removes"
    ),
}
"""Every number that `measure` gives, in its order."""

_DRIFTING = ("brightness", "sharpness", "L", "a", "b")
"""What is kept of every frame, 8 bytes each: where the last quarter begins is known only at the end."""


def measure(frames: Iterable[Frame]) -> dict[str, float]:
    """All of `MEASURES` for one clip: finite numbers by name.

    Args:
        frames: uint8 (H, W, 3) RGB in order; an array (T, H, W, 3) or a decoder that streams.

    Raises:
        InputError: fewer than 2 frames, a side below `SMALLEST`, frames of different shapes, or not 8-bit RGB.
    """
    kept = {name: array("d") for name in _DRIFTING}
    sums: defaultdict[str, float] = defaultdict(float)
    count = 0
    dynamics = Dynamics()
    shape: tuple[int, ...] | None = None
    for given in frames:
        _check(given, shape)
        shape = given.shape
        frame = np.ascontiguousarray(given)
        picture = reduced(frame, SIDE)
        thumbnail = reduced(picture.astype(np.float32), THUMBNAIL)
        for name, value in _looks(picture, thumbnail).items():
            sums[name] += value
            if name in kept:
                kept[name].append(value)
        dynamics.add(frame, picture, thumbnail)
        count += 1
    if count < 2:
        raise InputError(f"a clip needs at least 2 frames, got {count}; images have no motion to score")
    mean = {name: total / count for name, total in sums.items()}
    found = dynamics.numbers() | _summary(mean, {name: np.asarray(values) for name, values in kept.items()})
    return {name: found[name] for name in MEASURES}


def reduced(image: NDArray, side: int) -> NDArray:
    """`image` (H, W, C) averaged down to a short side of `side` pixels; itself where it is no larger."""
    height, width = image.shape[:2]
    if min(height, width) <= side:
        return image
    scale = side / min(height, width)
    return cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)


def softness(picture: Frame) -> float:
    """How much of the strongest edges survives a blur: near 0 for crisp edges, 1 where there is none left.

    mean g(blurred)^4 / mean g^4, with g the length of the gradient in the channel where it is greatest and a
    Gaussian blur of 1 px. Blurring again costs a soft edge little (the idea of Crete et al. 2007, "The Blur Effect");
    the fourth power lets the strongest edges speak, so that fog or a blurred background do not count as blur. It does
    not depend on brightness or contrast.

    Args:
        picture: uint8 (h, w, 3).
    """
    image = picture.astype(np.float32)
    sharp, soft = (float((_steepest(i) ** 2).mean()) for i in (image, cv2.GaussianBlur(image, (0, 0), 1.0)))
    return (soft + 1.0) / (sharp + 1.0)


def _steepest(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared gradient (h - 1, w - 1) in the channel where it is greatest."""
    corner = image[:-1, :-1]
    return widest((image[:-1, 1:] - corner) ** 2 + (image[1:, :-1] - corner) ** 2)


def _looks(picture: Frame, thumbnail: NDArray[np.float32]) -> dict[str, float]:
    luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    variance = float(luma.var())
    fine = float((luma - cv2.GaussianBlur(luma, (0, 0), 1.0)).var())
    lightness, a, b, _ = cv2.mean(cv2.cvtColor(thumbnail / 255, cv2.COLOR_RGB2LAB))
    ranges = [_level(channel, HIGH) - _level(channel, LOW) for channel in cv2.split(picture)]
    share = cv2.calcHist([picture], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3).ravel() / luma.size
    share = share[share > 0]
    return {
        "brightness": float(luma.mean(dtype=np.float64)),
        "sharpness": sum(float(np.square(np.diff(luma, axis=axis)).mean()) for axis in (0, 1)),
        "softness": softness(picture),
        "contrast": float(max(ranges)),
        "highlight": float(_level(widest(picture), HIGH)),
        "entropy": float(-(share * np.log2(share)).sum()) + 0.0,
        "fine": min(1.0, fine / variance) if variance > 0 else 0.0,
        "L": float(lightness),
        "a": float(a),
        "b": float(b),
    }


def _level(channel: NDArray[np.uint8], quantile: float) -> int:
    """The grey level that `quantile` of the pixels do not exceed."""
    counts = np.bincount(channel.ravel(), minlength=256)
    return int(np.searchsorted(counts.cumsum(), quantile * channel.size))


def _summary(mean: dict[str, float], kept: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    quarter = max(1, len(kept["brightness"]) // 4)
    early = {name: float(values[:quarter].mean()) for name, values in kept.items()}
    late = {name: float(values[-quarter:].mean()) for name, values in kept.items()}
    return {
        "brightness": mean["brightness"],
        "brightness-drift": late["brightness"] - early["brightness"],
        "colour-drift": math.dist([early[i] for i in "Lab"], [late[i] for i in "Lab"]),
        "sharpness": mean["sharpness"],
        # One grey level more on both sides: what rounding leaves in a flat picture is no detail.
        "sharpness-drift": math.log((late["sharpness"] + 1.0) / (early["sharpness"] + 1.0)),
        "softness": mean["softness"],
        "contrast": mean["contrast"],
        "highlight": mean["highlight"],
        "colour-entropy": mean["entropy"],
        "high-frequency-share": mean["fine"],
    }


def _check(frame: Frame, shape: tuple[int, ...] | None) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
        raise InputError(
            f"a frame must be uint8 (H, W, 3), got {frame.dtype} {frame.shape}; convert to 0-255"
        )
    if min(frame.shape[:2]) < SMALLEST:
        raise InputError(
            f"frames of {frame.shape[1]}x{frame.shape[0]} are too small to score; "
            f"sides must be at least {SMALLEST}"
        )
    if shape is not None and frame.shape != shape:
        raise InputError(f"frames change shape from {shape} to {frame.shape}; resize the clip")
