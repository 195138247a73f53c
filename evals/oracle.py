"""Oracle scores: what a generated clip shows of a scene that is known, read from its pixels without a network.

`evals.subject` finds the subject in every frame. Frame 0 may be given, and only says where the subject was: scores are
of the frames after it. Asked for is what the caption says and, of what is hidden, any value that it can take.

found             share of frames that have a subject
colour            share of frames whose subject is of the asked ink
count             share of frames with one object of the asked ink and at most one of any other (late arrivals are
                  hidden, so either number of others is right)
shape             mean overlap min / max (Jaccard) of the subject with the asked shape, both moved to their centres and
                  scaled to one area
tracking-error    root mean square distance in pixels of the subject from the nearest member of the asked law
                  (`evals.laws`); of a pulse, in x, y and radius; a frame without a subject is `LOST` pixels off
direction-error   angle in degrees between the said direction of a drift and the subject's, regressed over frames
                  1 to 8; a subject that is not found, or rests (under `REST` px/frame), says no direction and counts
                  as the 90 degrees of a guess
speed-variation   standard deviation over root mean square of the speed over `LAG` frames, where the nearest member
                  moves at one speed on a straight line (drift, zigzag) or a circle (orbit): 0 is constant, 1 the most
                  that there is, and the value of a subject that rests
bounce-error      |v' + v| / |v| where a drift meets a wall, mean over such frames; v and v' are its speed towards the
                  wall, regressed over the `BOUNCE` frames before and after: 0 is the law, 1 sticks, 2 goes through
colour-drift      mean distance in grey levels (RGB, Euclidean) of the subject's mean colour from its first
size-drift        mean |ln r - ln of the first r|, r the radius that its area gives; not of a pulse
shape-drift       1 - mean overlap of the subject with its first shape, aligned as in `shape`
background-change mean distance in grey levels (RGB, Euclidean) of a pixel from its own mean over time, where no object
                  and no neighbourhood of one covers it; only where the caption says that nothing there moves: no
                  texture and, since its velocity is hidden, no pan

*First* is the median over the first `FIRST` frames that have a subject. A score is NaN where it is not defined: another
law, no wall met. A subject in fewer than `FEW` frames has no path (its tracking error is `LOST`) and no identity (NaN).
`found`, `colour`, `count` and `tracking-error` are defined for every clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from evals.catalogue import CLIP_FRAMES, ORACLE
from evals.laws import STRAIGHT, fit
from evals.subject import Track, area_of, each, locate, model
from magic141.data.factors import FRAME_SIZE, MOTIONS, RADII
from magic141.data.world import Scene
from magic141.errors import InputError

Array = NDArray[np.float64]
LOST = 16.0
"""Pixels, a quarter of the picture."""
FEW = 4
REST = 0.1
STEADY = ("drift", "zigzag", "orbit")
"""Laws of one speed."""
LAG = 4
BOUNCE = 5
FIRST = 4
_SIDE = 24
"""Side in pixels of the picture that aligned shapes are compared in, where every radius is a third of it."""


def measure(clip: NDArray[np.uint8], scene: Scene) -> dict[str, float]:
    """All of `evals.catalogue.ORACLE` for one clip, NaN where a score is not defined; see the module's docstring.

    Args:
        clip: uint8 (33, 64, 64, 3), which should show the scene from its frame 0 on.

    Raises:
        InputError: another type or shape.
    """
    return scores_of(locate(clip, scene), clip, scene)


def scores_of(track: Track, clip: NDArray[np.uint8], scene: Scene) -> dict[str, float]:
    """`measure` where the subject has been followed already. Raises as that does."""
    if len(clip) != CLIP_FRAMES:
        raise InputError(f"oracle scores are of clips of {CLIP_FRAMES} frames, got {len(clip)}; cut windows")
    found = track.inks[1:] >= 0
    direction = scene.labels()["direction"]
    scores = dict.fromkeys(ORACLE, np.nan) | {
        "oracle-found": float(found.mean()),
        "oracle-colour": float((track.inks[1:] == scene.subject.colour).mean()),
        "oracle-count": float(((track.same[1:] == 1) & (track.others[1:] <= 1)).mean()),
        "oracle-tracking-error": LOST,
    }
    if direction >= 0:
        scores["oracle-direction-error"] = _direction_error(track.centres[1:STRAIGHT], direction)
    if scene.texture.kind == 0 and scene.pan == (0.0, 0.0):
        scores["oracle-background-change"] = _background_change(clip[1:], track.covered[1:])
    if found.sum() >= FEW:
        scores |= _motion(track, scene) | _identity(track, scene, found)
    return scores


def _motion(track: Track, scene: Scene) -> dict[str, float]:
    """Of a subject that is found in at least `FEW` frames after frame 0."""
    law = MOTIONS[scene.motion.law]
    centres = track.centres.copy()
    centres[0] = np.nan
    radii = np.sqrt(track.areas / area_of(scene.subject.shape))
    path, swollen = fit(centres, radii, scene)
    squares = ((centres - path) ** 2).sum(axis=1)
    if swollen is not None:
        squares += (radii - swollen) ** 2
    squares[np.isnan(squares)] = LOST**2
    scores = {"oracle-tracking-error": float(np.sqrt(squares[1:].mean()))}
    if law in STEADY:
        scores["oracle-speed-variation"] = _speed_variation(centres, path)
    if law == "drift":
        scores["oracle-bounce-error"] = _bounce_error(centres, RADII[scene.subject.size])
    return scores


def _identity(track: Track, scene: Scene, found: NDArray[np.bool_]) -> dict[str, float]:
    """Of a subject that is found in at least `FEW` frames after frame 0."""
    frames = 1 + np.flatnonzero(found)
    colours, log_radii = track.colours[frames], np.log(track.areas[frames]) / 2
    shapes = np.stack([_aligned(track.shapes[t], track.centres[t], track.areas[t]) for t in frames])
    drifts = np.linalg.norm(colours - np.median(colours[:FIRST], axis=0), axis=1)
    scores = {
        "oracle-shape": float(_overlap(shapes, _asked_shape(scene.subject.shape)).mean()),
        "oracle-colour-drift": float(drifts.mean()),
        "oracle-shape-drift": 1 - float(_overlap(shapes, np.median(shapes[:FIRST], axis=0)).mean()),
    }
    if MOTIONS[scene.motion.law] != "pulse":
        scores["oracle-size-drift"] = float(np.abs(log_radii - np.median(log_radii[:FIRST])).mean())
    return scores


def _speed_variation(centres: Array, path: Array) -> float:
    chords, fitted = (np.linalg.norm(x[LAG:] - x[:-LAG], axis=1) / LAG for x in (centres, path))
    # At a wall, turn or corner the chord of the path itself is short.
    speeds = chords[np.isfinite(chords) & (fitted > 0.98 * fitted.max())]
    if len(speeds) < 2:
        return float("nan")
    return float(speeds.std() / np.sqrt(np.square(speeds).mean())) if speeds.mean() > REST else 1.0


def pace(centres: Array) -> float:
    """Median speed in pixels a frame of centres (T, 2) over `LAG` frames, at least `REST`: also of what is not found.

    The median, since few chords of a stretch meet a wall or a corner, where they are short.
    """
    chords = np.linalg.norm(centres[LAG:] - centres[:-LAG], axis=1) / LAG
    known = chords[np.isfinite(chords)]
    return max(float(np.median(known)), REST) if len(known) else REST


def _direction_error(centres: Array, direction: int) -> float:
    velocity = _velocity(centres)
    if not np.linalg.norm(velocity) > REST:  # NaN too
        return 90.0
    angle = np.degrees(np.arctan2(velocity[1], velocity[0])) - 45.0 * direction
    return float(abs((angle + 180) % 360 - 180))


def _bounce_error(centres: Array, radius: float) -> float:
    errors = []
    for axis, side in product((0, 1), (-1, 1)):
        # Distance from the wall, of the centre where the edge touches it.
        gap = FRAME_SIZE / 2 - radius - side * (centres[:, axis] - FRAME_SIZE / 2)
        for frame in _meetings(gap):
            before = _velocity(centres[frame - BOUNCE : frame])[axis]
            after = _velocity(centres[frame + 1 : frame + 1 + BOUNCE])[axis]
            if side * before > 2 * REST and np.isfinite(after):
                errors.append(abs(after + before) / abs(before))
    return float(np.mean(errors)) if errors else float("nan")


def _meetings(gap: Array) -> Iterator[int]:
    """Frames at which a gap (T,) to a wall closes: the least of each run within a pixel, or the first beyond it."""
    near = np.concatenate([[False], gap < 1.0, [False]])
    for start, end in zip(
        *(np.flatnonzero(np.diff(near.astype(int)) == way) for way in (1, -1)), strict=True
    ):
        frame = int(start + np.maximum(gap[start:end], 0).argmin())
        if BOUNCE < frame < len(gap) - BOUNCE:
            yield frame


def _velocity(centres: Array) -> Array:
    """Slope (2,) in pixels a frame of centres (T, 2) by least squares, NaN for fewer than 2 known ones."""
    known = np.flatnonzero(np.isfinite(centres[:, 0]))
    if len(known) < 2:
        return np.full(2, np.nan)
    clock = known - known.mean()
    return clock @ centres[known] / (clock @ clock)


def _background_change(frames: NDArray[np.uint8], covered: NDArray[np.bool_]) -> float:
    free = ~each(cv2.dilate, covered, 5)
    if not free.any():
        return float("nan")
    pixels = (frames * free[..., None]).astype(np.float32)
    pixels -= pixels.sum(axis=0) / np.maximum(free.sum(axis=0), 1)[..., None]
    distances = np.sqrt(np.einsum("thwc,thwc->thw", pixels, pixels))
    return float(distances.mean(where=free))


def _aligned(shape: NDArray[np.bool_], centre: Array, area: float) -> NDArray[np.float32]:
    """A shape (64, 64) with its centre moved to the middle and its area scaled to one: (_SIDE, _SIDE) in [0, 1]."""
    scale = _SIDE / 3 / np.sqrt(area / np.pi)
    shift = _SIDE / 2 - 0.5 + scale * (0.5 - centre)
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    return cv2.warpAffine(shape.astype(np.float32), matrix, (_SIDE, _SIDE))


def _overlap(shapes: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Jaccard index (T,) of soft shapes (T, _SIDE, _SIDE) with another."""
    both, either = (f(shapes, other).sum(axis=(1, 2)) for f in (np.minimum, np.maximum))
    return both / either


@cache
def _asked_shape(shape: int) -> NDArray[np.float32]:
    rows, columns = np.nonzero(model(shape))
    return _aligned(model(shape), np.array([columns.mean(), rows.mean()]) + 0.5, float(len(rows)))
