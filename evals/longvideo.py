"""Scores of long video whose scenes are known: what drifts from window to window, and what the end still shows.

A video is cut into clips of 33 frames that share one frame. Each is measured by `evals.oracle` and by `evals.drift`,
which gives a curve a score; its slope is the drift. The judge reads every clip: when are identity and law lost, and are
they still there after all windows? Where windows meet, pixels should not jump, nor the subject change its speed. What
a caption says of a first direction holds for the first clip alone, so that the later ones are asked for the law in any
direction. A window whose subject is lost has the worst value of every oracle score that its law defines, not none:
else a video would drift less by losing it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evals import oracle, statistics
from evals.catalogue import CLIP_FRAMES
from evals.drift import Drift, drift
from evals.judges import WorldJudge, judge
from evals.longvideo_catalogue import (
    KEPT,
    ORACLE_CURVES,
    PLAIN_CURVES,
    SEAMS,
    SECONDS_PER_WINDOW,
    STRIDE,
)
from evals.statistics import Estimate
from evals.subject import Track, locate
from evals.trend import FEWEST, trend
from magic141.data.factors import FPS, MOTIONS
from magic141.data.world import Scene

Array = NDArray[np.float64]
LOST = {"shape": 0.0, "speed-variation": 1.0}
"""The worst values of scores that `evals.oracle` leaves out where it does not find the subject."""


@dataclass(frozen=True)
class LongScores:
    """What `measure` found in one video.

    kept: attribute -> 1.0 where the last window shows it, else 0.0. curves: score -> (windows,), NaN where it is not
    defined; "right-ATTRIBUTE" is what `kept` is, of every window. slopes: score -> change per minute; without those
    that are not defined in every window. seams: kind -> change across seams less that inside, in grey levels; empty
    without seams.
    """

    kept: dict[str, float]
    curves: dict[str, Array]
    slopes: dict[str, Estimate]
    seams: dict[str, Estimate]

    def value(self, metric: str) -> Estimate | None:
        """The estimate of one of `evals.longvideo_catalogue.METRICS` over this video's windows, if it has one."""
        kind, _, name = metric.partition("-")
        if kind == "last":
            return Estimate(self.kept[name], math.nan, math.nan, 1)
        return (self.slopes if kind == "drift" else self.seams).get(name)


def measure(
    frames: NDArray[np.uint8], scene: Scene, starts: Sequence[int] = (), model: WorldJudge | None = None
) -> LongScores:
    """Scores of one video.

    Args:
        frames: uint8 (T, 64, 64, 3), which should show the scene from its frame 0 on.
        starts: the first new frame of each window that the video was made in, evenly spaced from the second on;
            without them seams are sought between the scored windows, where there should be none.

    Raises:
        InputError: fewer frames than a window, or of another type.
        WeightsMissing: the judge is not there.
    """
    plain = drift(frames, window=CLIP_FRAMES, stride=STRIDE, fps=FPS)
    windows = [frames[start : start + CLIP_FRAMES] for start in plain.starts]
    tracks = [locate(window, scene) for window in windows]
    curves = _oracle_curves(windows, tracks, scene) | {
        name: plain.curves[name].values for name in PLAIN_CURVES
    }
    slopes = {name: slope for name, values in curves.items() if (slope := _slope(name, values))}
    verdict, labels = judge(np.stack(windows), model=model), scene.labels()
    right = {name: (verdict.classes[name] == labels[name]).astype(np.float64) for name in KEPT}
    curves |= {f"right-{name}": values for name, values in right.items()}
    kept = {name: float(values[-1]) for name, values in right.items()}
    seams = _seams(frames, starts, plain)
    if (speed := _seam_speed(tracks, starts, scene)) is not None:
        seams["speed"] = speed
    return LongScores(kept, curves, slopes, seams)


def aggregate(videos: Sequence[LongScores], metric: str) -> Estimate | None:
    """One metric over videos: Wilson's interval of shares, the bootstrap's of means; of one video, over its windows.

    None where no video has it.
    """
    found = [estimate for video in videos if (estimate := video.value(metric))]
    if not found:
        return None
    values = [estimate.value for estimate in found]
    if metric.startswith("last-"):
        return statistics.proportion(values)
    return found[0]._replace(n=1) if len(found) == 1 else statistics.mean(values)


def _oracle_curves(
    windows: Sequence[NDArray[np.uint8]], tracks: Sequence[Track], scene: Scene
) -> dict[str, Array]:
    undirected = dataclasses.replace(scene, direction_said=False)
    rows = [
        oracle.scores_of(track, clip, undirected if i else scene)
        for i, (clip, track) in enumerate(zip(windows, tracks, strict=True))
    ]
    curves = {name: np.array([row[f"oracle-{name}"] for row in rows]) for name in ORACLE_CURVES}
    lost = np.array([row["oracle-tracking-error"] >= oracle.LOST for row in rows])
    for name, worst in LOST.items():
        if name == "shape" or np.isfinite(curves[name]).any():
            curves[name] = np.where(lost & np.isnan(curves[name]), worst, curves[name])
    return curves


def _slope(name: str, values: Array) -> Estimate | None:
    # As in `evals.drift`: the first window equals itself.
    used = values[1:] if name.startswith("first-") else values
    if len(used) < FEWEST or not np.isfinite(used).all():
        return None
    scale = 60.0 / SECONDS_PER_WINDOW
    value, low, high, n = trend(used)
    return Estimate(value * scale, low * scale, high * scale, n)


def _made_in(starts: Sequence[int], frames: int) -> tuple[int, int]:
    """(window, stride) of the windows that a video was made in; of the scored ones where that is not known."""
    if len(starts) < 2:
        return CLIP_FRAMES, STRIDE
    window = starts[1]
    return window, starts[2] - window if len(starts) > 2 else min(window, frames - window)


def _seams(frames: NDArray[np.uint8], starts: Sequence[int], plain: Drift) -> dict[str, Estimate]:
    """Seams of the windows that the video was made in: where those are the scored ones, they are measured already."""
    found = plain
    window, stride = _made_in(starts, len(frames))
    if (window, stride) != (CLIP_FRAMES, STRIDE):
        found = drift(frames, window=window, stride=stride, fps=FPS)
    return {name: found.seams[name].difference for name in SEAMS if name in found.seams}


def _seam_speed(tracks: Sequence[Track], starts: Sequence[int], scene: Scene) -> Estimate | None:
    """|ln of the ratio| of the subject's speeds in the half windows that meet at a seam, less that of the two halves of
    the window after it; None for a law without one speed, or without a whole window after a seam.
    """
    if MOTIONS[scene.motion.law] not in oracle.STEADY:
        return None
    # Scored windows share a frame.
    centres = np.concatenate([track.centres[bool(i) :] for i, track in enumerate(tracks)])
    window, stride = _made_in(starts, len(centres))
    half = stride // 2
    changes = []
    for seam in range(window, len(centres) - 2 * half + 1, stride):
        before, after, later = (
            math.log(oracle.pace(centres[at : at + half])) for at in (seam - half, seam, seam + half)
        )
        changes.append(abs(after - before) - abs(later - after))
    return statistics.mean(changes) if changes else None
