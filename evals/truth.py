"""Stored statistics of truth that fvd-world and kvd-world compare with, and the command that makes them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from evals.catalogue import STATISTICS, WEIGHTS, WIDTH, card
from evals.frechet import Moments, extrapolated
from magic141.errors import WeightsCorrupt, WeightsMissing

FIRST = 1_000_000
"""Index of the first test scene used here: prompts of a bench count from 0, so no clip is its own reference."""
KERNEL_SAMPLES = 1024
FLOOR_SIZES = (46, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096)
FLOOR_DRAWS = 48
_BATCH = 64


@dataclass(frozen=True)
class TruthStatistics:
    """moments: of all reference clips. features: (1024, WIDTH) of some of them, for the kernel distance.

    floor_sizes, floors: what `extrapolated` says, on average, of that many fresh truth clips.
    """

    moments: Moments
    features: NDArray[np.float64]
    floor_sizes: NDArray[np.float64]
    floors: NDArray[np.float64]

    def floor(self, n: int) -> float:
        """Truth against truth at n clips, linear in 1/n between the stored sizes."""
        return float(np.interp(1 / n, 1 / self.floor_sizes[::-1], self.floors[::-1]))


@cache
def load_truth(path: Path = STATISTICS) -> TruthStatistics:
    """Read the stored statistics.

    Raises:
        WeightsMissing: there are none.
        WeightsCorrupt: they were made with another judge than the one that ships.
    """
    if not path.exists():
        raise WeightsMissing(f"no truth statistics at {path}; make them: python -m evals stats")
    with np.load(path) as data:
        if str(data["judge"]) != card(WEIGHTS)["sha256"]:
            raise WeightsCorrupt(f"{path} was made with another judge; make it again: python -m evals stats")
        mean, covariance = (data[key].astype(np.float64) for key in ("mean", "covariance"))
        n = int(data["n"])
        return TruthStatistics(
            moments=Moments(n, mean, covariance * (n - 1)),
            features=data["features"].astype(np.float64),
            floor_sizes=data["floor_sizes"].astype(np.float64),
            floors=data["floors"].astype(np.float64),
        )


def truth_features(first: int, count: int, title: str) -> Iterator[NDArray[np.float32]]:
    """Features of test scenes number `first` …, batch by batch, with a progress bar."""
    from evals.judges import judge
    from magic141.data.render import render
    from magic141.data.world import World

    world = World()
    for start in track(range(first, first + count, _BATCH), description=title):
        scenes = world.scenes("test", start, min(_BATCH, first + count - start))
        yield judge(render(scenes).numpy()).features


def make_truth(
    clips: int, *, floor_clips: int = 8192, output: Path = STATISTICS, seed: int = 0
) -> TruthStatistics:
    """Extract features of `clips` fresh truth clips, and the floor from `floor_clips` further ones; write `output`."""
    moments = Moments.empty(WIDTH)
    kept: list[NDArray[np.float32]] = []
    for features in truth_features(FIRST, clips, "reference"):
        moments = moments.update(features)
        if sum(len(part) for part in kept) < KERNEL_SAMPLES:
            kept.append(features)
    fresh = np.concatenate(list(truth_features(FIRST + clips, floor_clips, "floor")))
    rng = np.random.default_rng(seed)
    sizes = [size for size in FLOOR_SIZES if size <= floor_clips // 2]
    floors = []
    for size in track(sizes, description="floor by sample size"):
        draws = [
            extrapolated(fresh[rng.permutation(len(fresh))[:size]], moments, seed=draw).value
            for draw in range(FLOOR_DRAWS)
        ]
        floors.append(float(np.mean(draws)))
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_suffix(".tmp.npz")
    np.savez_compressed(
        temporary,
        n=np.int64(moments.n),
        mean=moments.mean.astype(np.float32),
        covariance=moments.covariance().astype(np.float32),
        features=np.concatenate(kept)[:KERNEL_SAMPLES].astype(np.float16),
        floor_sizes=np.array(sizes, np.int64),
        floors=np.array(floors, np.float32),
        judge=np.array(card(WEIGHTS)["sha256"]),
        made=np.array(
            json.dumps({"split": "test", "first": FIRST, "clips": clips, "floor_clips": floor_clips})
        ),
    )
    os.replace(temporary, output)
    load_truth.cache_clear()
    return load_truth(output)
