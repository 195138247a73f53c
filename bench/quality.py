"""The quality pass: clips of every prompt and seed, their scores, and those few that are stored to be looked at."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench import systems
from bench.errors import InvalidOutputError, UnsupportedError
from bench.jobs import Job
from bench.records import RANDOM_WEIGHTS, Clip, Score, write_samples
from bench.scorers import Scorer, made, objection
from bench.systems import Output, Request, System
from magic141.video import write_video


def check_scorable(job: Job, system: System, requests: Sequence[Request], output: Output) -> None:
    """Raises UnsupportedError where the scorer will not take such clips, before all of them are made."""
    if RANDOM_WEIGHTS in job.cell.flags:
        return
    scorer: Scorer = systems.find(job.suite.scorer, "scorer")
    if why := objection(scorer, made(output, requests, system.fps)):
        raise UnsupportedError(why)


def answers(
    requests: Sequence[Request],
    size: int,
    generate: Callable[[Sequence[Request]], Output],
    progress: Callable[[float], None],
) -> Output:
    """Every prompt with every seed, in batches that are as large as throughput wants."""
    frames, firsts = [], []
    for start in range(0, len(requests), size):
        output = generate(requests[start : start + size])
        # Copies: a system may return a buffer that it fills anew the next time.
        frames.append(output.frames.copy())
        firsts += [] if output.first_frames is None else [output.first_frames.copy()]
        progress(min(start + size, len(requests)) / len(requests))
    return Output(
        np.concatenate(frames),
        np.concatenate(firsts) if len(firsts) == len(frames) else None,
        output.starts,
    )


def score(job: Job, fps: int, requests: list[Request], output: Output, found: dict[str, Any]) -> None:
    scorer: Scorer = systems.find(job.suite.scorer, "scorer")
    scores = scorer.score(output, requests, job.suite.metrics)
    if absent := [name for name in job.suite.metrics if name not in scores.aggregate]:
        raise InvalidOutputError(f"{job.suite.scorer} returned no score for {', '.join(absent)}")
    rows = [
        {"index": request.index, "prompt": request.prompt, "seed": request.seed}
        | {name: _plain(value) for name, value in row.items()}
        for request, row in zip(requests, scores.per_sample, strict=True)
    ]
    found["scores"] = scores.aggregate
    found["samples"] = write_samples(job.work, job.cell.id, rows)
    found["clips"] = _store_clips(job, fps, requests, output, worst(scores.aggregate, rows))


def worst(scores: dict[str, Score], rows: list[dict[str, Any]]) -> int:
    """The row whose rank, averaged over the metrics that score single clips, is lowest."""
    ranks = np.zeros(len(rows))
    for name, score in scores.items():
        values = np.array([math.nan if row.get(name) is None else float(row[name]) for row in rows])
        if np.isnan(values).all():
            continue
        badness = {"higher": -values, "lower": values, "target": abs(values - (score.target or 0))}[
            score.better
        ]
        badness = np.where(np.isnan(badness), np.nanmedian(badness), badness)
        ranks += (badness[:, None] > badness[None, :]).mean(1)
    return int(ranks.argmax())


def _store_clips(
    job: Job, fps: int, requests: list[Request], output: Output, worst_place: int
) -> tuple[Clip, ...]:
    folder = job.work / "clips" / job.cell.id
    folder.mkdir(parents=True)
    places = [(place, "fixed") for place in range(min(job.suite.clips, job.cell.prompts.count))]
    clips = []
    for place, role in [*places, (worst_place, "worst")]:
        request = requests[place]
        path = folder / f"{request.index:05d}-{request.seed}.mp4"
        if not path.exists():
            write_video(path, output.frames[place], fps)
        clips.append(
            Clip(
                index=request.index,
                prompt=request.prompt,
                seed=request.seed,
                path=path.relative_to(job.work).as_posix(),
                role=role,
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            )
        )
    return tuple(clips)


def _plain(value: Any) -> Any:
    """A value of a table as JSON holds it: numpy scalars as Python's, NaN and infinities as None."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
