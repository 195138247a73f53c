"""How much moves: of the subject, tracked by the judge, and of the whole picture, by optical flow.

*Motion ratio.* With p(t) the centre of the subject, its motion magnitude is the mean displacement over a quarter of
a second,

    m = mean over t of |p(t + LAG) - p(t)| / LAG      [px/frame],

on tracks sampled at frames 3, 7, 11, …, the middles of the judge's groups: the given first frame is no credit. The
ratio of a set of clips is sum(m of the clip, tracked by the judge) / sum(m of its scene's truth, exact): the speed of
a scene is hidden from the generator, so single clips differ from their truth, but the sums agree for a generator that
draws speeds as the world does. Scenes whose subject rests (still, pulse) have nothing to divide by and are left out;
so are scenes where a second object is in view, because then it is ambiguous which one is tracked. 1 is truth, 0 a
still picture.

LAG trades the tracker's noise (long is better) against paths that curve back within it (short is better). The tracker
looks at 5 frames at a time, and knows of the others only what the subject looks like at first, so that a still picture
has a still track.

*Flow magnitude.* Mean length of dense optical flow (OpenCV DIS, preset medium; Kroeger et al. 2016), which also sees
camera, textures and clutter. It needs no weights and works on any video.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from evals.catalogue import CENTRES, CLIP_FRAMES, GROUP
from magic141.data.world import Scene
from magic141.errors import InputError

LAG = GROUP
"""Frames between the positions of a track, and so between the two of a displacement."""


def displacement(track: NDArray[np.floating]) -> NDArray[np.float64]:
    """Motion magnitude m in px/frame of tracks (..., 8, 2) in pixels, sampled every LAG frames: (...)."""
    return np.linalg.norm(np.diff(track.astype(np.float64), axis=-2), axis=-1).mean(axis=-1) / LAG


def true_displacement(scene: Scene, start: int = 0) -> float:
    """m of the scene's exact path; NaN where the ratio leaves it out: for a subject at rest, a second object in view,
    a caption that does not say whether the subject moves.
    """
    truth = scene.truth(CLIP_FRAMES, start)
    if scene.terse or truth.visible[:, 1:].any():
        return float("nan")
    magnitude = float(displacement(truth.positions[list(CENTRES), 0]))
    return magnitude if magnitude > 0 else float("nan")


def flow_magnitude(frames: Iterable[NDArray[np.uint8]]) -> float:
    """Mean length of DIS flow in px/frame over the consecutive frames of one clip (T, H, W, 3) at native size.

    Raises:
        InputError: fewer than 2 frames.
    """
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    previous, lengths = None, []
    for frame in frames:
        grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        if previous is not None:
            field = flow.calc(previous, grey, None)
            lengths.append(float(np.linalg.norm(field, axis=-1).mean()))
        previous = grey
    if not lengths:
        raise InputError("optical flow needs at least 2 frames; an image has none")
    return float(np.mean(lengths))
