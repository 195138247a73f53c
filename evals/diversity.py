"""Diversity: does a student still make all the videos that its teacher makes of one prompt?

For every prompt, clips of many seeds; of each the final position of the subject, which `evals.subject` finds. The
variance of a prompt is the trace of the unbiased covariance (2 x 2) of these positions over its seeds, in px^2.
Variances are summed over the prompts whose hidden factors leave the position open, and the ratio of both sums is the
score: a ratio of sums, so that a prompt in which hardly anything is open has hardly any say. Its interval comes from
resampling prompts. Which prompts are open is read from the scenes, never from what the teacher made: to choose prompts
by the teacher's variance would choose its luck, and push the ratio below 1.

A model that scatters its subject at random has a ratio above 1, so read it beside the scores of quality: 1 is best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evals import statistics
from evals.statistics import Estimate
from evals.subject import locate
from magic141.data.factors import MOTIONS
from magic141.data.world import Scene
from magic141.errors import InputError

Array = NDArray[np.float64]
LAST = 4
"""The final position is the median over so many last frames, of those that have a subject."""
RESTING = ("still", "pulse")
"""Laws whose subject ends where it began."""


@dataclass(frozen=True)
class Diversity:
    """ratio: pooled variance of the student over the teacher's, n its open prompts with 2 found clips or more on
    both sides. found: share of the student's and the teacher's clips of open prompts whose subject was found.
    """

    ratio: Estimate
    found: tuple[float, float]


def final_position(clip: NDArray[np.uint8], scene: Scene) -> Array:
    """(x, y) of the subject at the end of uint8 (T, 64, 64, 3), NaN where none of the last frames has one."""
    centres = locate(clip, scene).centres[-LAST:]
    known = centres[np.isfinite(centres[:, 0])]
    return np.median(known, axis=0) if len(known) else np.full(2, np.nan)


def is_open(scene: Scene) -> bool:
    """Whether first frame and caption leave the final position open: the subject moves, and its speed is not said."""
    return MOTIONS[scene.motion.law] not in RESTING and "speed" not in scene.stated


def variances(positions: Array) -> Array:
    """Trace of the unbiased covariance over seeds: (P, S, 2), NaN where not found, to (P,), NaN below 2 found."""
    known: NDArray[np.bool_] = np.asarray(np.isfinite(positions).all(axis=-1))
    count = known.sum(axis=1)
    kept = np.where(known[..., None], positions, 0.0)
    mean = kept.sum(axis=1) / np.maximum(count, 1)[:, None]
    squares = (np.where(known[..., None], positions - mean[:, None], 0.0) ** 2).sum(axis=(1, 2))
    return np.where(count > 1, squares / np.maximum(count - 1, 1), np.nan)


def variance_ratio(student: Array, teacher: Array, scenes: Sequence[Scene]) -> Diversity:
    """Pooled ratio of `student` to `teacher`, final positions (P, S, 2) of the same P scenes; S may differ.

    Raises:
        InputError: shapes that do not fit, no open prompt with 2 found clips on both sides, or a teacher that makes
            one and the same clip of each.
    """
    for name, positions in (("student", student), ("teacher", teacher)):
        if positions.ndim != 3 or positions.shape[2] != 2 or len(positions) != len(scenes):
            raise InputError(
                f"positions of the {name} have shape {positions.shape}; {len(scenes)} scenes need "
                f"({len(scenes)}, seeds, 2)"
            )
    rows = np.array([is_open(scene) for scene in scenes], bool)
    pairs = np.stack([variances(positions[rows]) for positions in (student, teacher)], axis=-1)
    pairs = pairs[np.isfinite(pairs).all(axis=-1)]
    if not len(pairs):
        raise InputError(
            f"of {len(scenes)} prompts none is open and has 2 clips with a subject on both sides: give more prompts, "
            "or 2 seeds and more"
        )
    ratio = statistics.ratio_of_means(pairs[:, 0], pairs[:, 1])
    if not math.isfinite(ratio.value):
        raise InputError("the teacher makes one clip of every prompt: there is no diversity to keep")
    shares = [float(np.isfinite(positions[rows, :, 0]).mean()) for positions in (student, teacher)]
    return Diversity(ratio, (shares[0], shares[1]))
