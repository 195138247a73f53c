"""All lab scores of generated clips whose scenes are known, in one pass that streams."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evals import clip_world, fidelity, flicker, frechet, kernel, motion, oracle, statistics
from evals.catalogue import (
    ATTRIBUTES,
    CLIP_FRAMES,
    GROUP,
    IMAGE_ATTRIBUTES,
    METRICS,
    ORACLE,
    WIDTH,
    check_metrics,
    protocol,
)
from evals.judges import WorldJudge, check_frames, judge
from evals.protocol import Score
from evals.statistics import Estimate
from evals.truth import load_truth
from magic141.data.render import render
from magic141.data.world import Scene
from magic141.errors import InputError

_BATCH = 64
_SMALL_SAMPLE = 8
"""Clips a feature below which the 1/N fit misses a known distance in one of ten trials instead of twenty."""


@dataclass(frozen=True)
class LabScores:
    """aggregate: metric -> Score. per_sample: one row a clip, in order, columns named like the metrics (NaN where a
    clip has no such value) beside `prompt` and what ratios are made of. omitted: metric -> why there is no score.
    features: (N, WIDTH) of fvd-world, empty for images.
    """

    aggregate: dict[str, Score]
    per_sample: pd.DataFrame
    omitted: dict[str, str]
    features: NDArray[np.float64]


@dataclass
class LabScorer:
    """Scores batches as they come; `result` aggregates. Keeps per-clip numbers, never pixels.

    Raises (update): InputError for frames that are not uint8 (N, 1 or 33, 64, 64, 3), for counts that differ, and for
    clips mixed with images.
    """

    metrics: Sequence[str] | None = None
    seed: int = 0
    model: WorldJudge | None = None
    _tables: list[pd.DataFrame] = field(default_factory=list, init=False)
    _features: list[NDArray[np.float32]] = field(default_factory=list, init=False)
    _num_frames: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._names = check_metrics(self.metrics)

    def update(
        self,
        frames: NDArray[np.uint8],
        scenes: Sequence[Scene],
        first_frames: NDArray[np.uint8] | None = None,
        prompts: Sequence[str] | None = None,
    ) -> None:
        """Add uint8 (N, T, 64, 64, 3) of N scenes; first_frames (N, 64, 64, 3) are the images that were given."""
        check_frames(frames)
        if self._num_frames not in (0, frames.shape[1]):
            raise InputError(
                f"clips of {frames.shape[1]} frames after clips of {self._num_frames}; score them apart"
            )
        self._num_frames = frames.shape[1]
        for name, others in (("scenes", scenes), ("first_frames", first_frames), ("prompts", prompts)):
            if others is not None and len(others) != len(frames):
                raise InputError(
                    f"{len(frames)} clips but {len(others)} {name}; give one a clip, in the same order"
                )
        captions = list(prompts or (scene.caption() for scene in scenes))
        columns: dict[str, object] = {"prompt": captions}
        verdict = judge(frames, model=self.model)
        attributes = ATTRIBUTES if self._num_frames > 1 else IMAGE_ATTRIBUTES
        labels = [scene.labels() for scene in scenes]
        accuracies: dict[str, NDArray[np.float64]] = {}
        for name in attributes:
            truth = np.array([label[name] for label in labels])
            accuracies[f"accuracy-{name}"] = np.where(truth >= 0, verdict.classes[name] == truth, np.nan)
        columns["accuracy-mean"] = np.nanmean(list(accuracies.values()), axis=0)
        columns |= accuracies
        if self._num_frames > 1:
            self._features.append(verdict.features)
            columns |= self._motion(frames, scenes, verdict.track)
            if not ORACLE.keys().isdisjoint(self._names):
                rows = [oracle.measure(clip, scene) for clip, scene in zip(frames, scenes, strict=True)]
                columns |= {name: [row[name] for row in rows] for name in ORACLE}
        if "clip-world" in self._names:
            seen = frames if self._num_frames == 1 else frames[:, 1::GROUP]
            columns["clip-world"] = clip_world.scores(seen, captions)
        if first_frames is not None:
            columns["first-frame-psnr"] = fidelity.psnr(frames[:, 0], np.asarray(first_frames))
        self._tables.append(pd.DataFrame(columns))

    def _motion(
        self, frames: NDArray[np.uint8], scenes: Sequence[Scene], tracks: NDArray[np.float32]
    ) -> dict[str, object]:
        columns: dict[str, object] = {
            "displacement": motion.displacement(tracks),
            "true-displacement": [motion.true_displacement(scene) for scene in scenes],
        }
        if "flickering" in self._names:
            columns["flickering"] = [flicker.temporal_flickering(clip) for clip in frames]
        if "flow-ratio" in self._names:
            truth = render(scenes, CLIP_FRAMES).numpy()
            columns["flow"] = [motion.flow_magnitude(clip[1:]) for clip in frames]
            columns["true-flow"] = [motion.flow_magnitude(clip[1:]) for clip in truth]
        return columns

    def result(self) -> LabScores:
        """Scores of everything so far. Raises InputError when there is nothing."""
        if not self._tables:
            raise InputError("no clips to score; add some with update")
        table = pd.concat(self._tables, ignore_index=True)
        features = np.concatenate([*self._features, np.empty((0, WIDTH), np.float32)]).astype(np.float64)
        aggregate: dict[str, Score] = {}
        omitted: dict[str, str] = {}
        for name in self._names:
            try:
                aggregate[name] = self._aggregate(name, table, features)
            except InputError as error:
                omitted[name] = str(error)
        return LabScores(aggregate, table, omitted, features)

    def _aggregate(self, name: str, table: pd.DataFrame, features: NDArray[np.float64]) -> Score:
        metric = METRICS[name]
        if self._num_frames == 1 and not metric.images:
            raise InputError("not defined for images")
        estimate, floor, note = self._estimate(name, table, features)
        if not math.isfinite(estimate.value):
            raise InputError("truth does not move in any of the clips, so there is nothing to divide by")
        known = math.isfinite(estimate.low) and math.isfinite(estimate.high)
        return Score(
            value=estimate.value,
            low=estimate.low if known else None,
            high=estimate.high if known else None,
            n=estimate.n,
            protocol=protocol(name, n=estimate.n, num_frames=self._num_frames),
            better=metric.better,
            target=metric.target,
            floor=floor,
            note=note,
            unit=metric.unit,
        )

    def _estimate(
        self, name: str, table: pd.DataFrame, features: NDArray[np.float64]
    ) -> tuple[Estimate, float | None, str]:
        """Estimate, floor, note."""
        if name == "fvd-world":
            truth = load_truth()
            raw = frechet.extrapolated(features, truth.moments, seed=self.seed)
            floor = truth.floor(raw.n)
            note = f"only {raw.n} clips for {WIDTH} features: wide" if raw.n < _SMALL_SAMPLE * WIDTH else ""
            return Estimate(raw.value - floor, raw.low - floor, raw.high - floor, raw.n), floor, note
        if name == "kvd-world":
            return kernel.kernel_distance(features, load_truth().features), None, ""
        if name in ("motion-ratio", "flow-ratio"):
            measured = {"motion-ratio": "displacement", "flow-ratio": "flow"}[name]
            true = f"true-{measured}"
            rows = table.dropna(subset=[true])
            return statistics.ratio_of_means(rows[measured], rows[true], seed=self.seed), None, ""
        if name not in table:
            raise InputError("no first frames were given")
        values = table[name].dropna()
        if values.empty:
            raise InputError("not defined for any of these clips")
        if name.startswith("accuracy-") and name != "accuracy-mean":
            return statistics.proportion(values), None, ""
        return statistics.mean(values, seed=self.seed), None, ""


def score(
    frames: NDArray[np.uint8],
    scenes: Sequence[Scene],
    first_frames: NDArray[np.uint8] | None = None,
    prompts: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> LabScores:
    """Score generated clips against the scenes that they should show.

    Args:
        frames: uint8 (N, T, 64, 64, 3); T = 33 (clips) or 1 (images). A memory-mapped array streams.
        scenes: N scenes. first_frames: uint8 (N, 64, 64, 3) given to an image-to-video system. prompts: N texts,
            by default the captions. metrics: names in `evals.catalogue.METRICS`, by default all that apply.

    Raises:
        InputError: shapes, types or counts that do not fit, or an unknown metric.
        WeightsMissing: the judge or the truth statistics are not there.
    """
    scorer = LabScorer(metrics, seed)
    for start in range(0, len(frames), _BATCH):
        part = slice(start, start + _BATCH)
        scorer.update(
            frames[part],
            scenes[part],
            None if first_frames is None else first_frames[part],
            None if prompts is None else prompts[part],
        )
    return scorer.result()


def reference_rows(scenes: Sequence[Scene], seed: int = 0) -> Iterable[tuple[str, NDArray[np.uint8]]]:
    """Clips that calibrate every score, one name at a time: truth, its first frame repeated, and noise."""
    truth = render(scenes, CLIP_FRAMES).numpy()
    yield "truth", truth
    yield "static", np.repeat(truth[:, :1], CLIP_FRAMES, axis=1)
    yield "noise", np.random.default_rng(seed).integers(0, 256, truth.shape, dtype=np.uint8)
