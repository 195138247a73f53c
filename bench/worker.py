"""One cell in one fresh process: load, then latency, memory and quality, each in a pass of its own.

Everything goes into a temporary folder laid out like a run (samples/, clips/) with the record beside it; the
driver moves it into the run. A cell that fails leaves a record too, unless its process was killed.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import functools
import gc
import hashlib
import math
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from bench import energy, latency, measure, nvml, systems
from bench.errors import InvalidOutputError, UnsupportedError
from bench.isolation import Announcer, Ending, memory_limit
from bench.records import (
    END_TO_END,
    RANDOM_WEIGHTS,
    Clip,
    ColdStart,
    FirstClip,
    Outcome,
    Record,
    Score,
    write_atomically,
    write_samples,
)
from bench.scorers import Examinable, Scorer, made, objection
from bench.suite import Cell, Suite
from bench.systems import Output, Request, System
from magic141.errors import WeightsMissing
from magic141.stages import FILE_ENCODE
from magic141.video import write_video

RECORD = "record.json"


@dataclass(frozen=True)
class Job:
    """What a worker is sent. `work` is the folder that it may write to."""

    cell: Cell
    suite: Suite
    fingerprint: str
    threads: int
    command: str
    work: Path

    def record(self, **fields: Any) -> Record:
        """A record of this cell with what is known before it starts."""
        return Record(
            kind=self.cell.kind,
            cell=self.cell.id,
            fingerprint=self.fingerprint,
            adapter=self.cell.adapter,
            sources_sha256=self.cell.sources_sha256,
            suite=self.suite.name,
            system=self.cell.system,
            role=self.cell.role,
            knobs=self.cell.knobs,
            weights_sha256=self.cell.weights_sha256,
            prompts=self.cell.prompts,
            seeds=tuple(self.cell.seeds),
            command=self.command,
            flags=(*self.cell.flags, *fields.pop("flags", ())),
            **fields,
        )


@dataclass(frozen=True)
class Answer:
    """What came of one job, wherever it ran; its files lie in `job.work`."""

    job: Job
    ending: Ending
    started: datetime.datetime
    preload: float


class _AnnouncedStopwatch(measure.Stopwatch):
    def __init__(self, announcer: Announcer, phase: str) -> None:
        super().__init__(measure.synchronise())
        self._announcer, self._phase = announcer, phase

    def open(self, name: str) -> None:
        self._announcer.stage(f"{self._phase}: {name}")
        super().open(name)


def run_cell(job: Job, announcer: Announcer) -> None:
    """Answers `job.cell` and writes the record. Whatever goes wrong becomes the record's outcome."""
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    found: dict[str, Any] = {}  # fields of the record; what was measured before a failure is kept
    phase = _Phase(announcer)
    passes = {"cell": _passes, "exam": _exam, "analytic": _analytic}[job.cell.kind]

    def record(**ending: Any) -> Record:
        return job.record(started=started, seconds=time.perf_counter() - clock, **found, **ending)

    try:
        with memory_limit(job.suite.memory_limit):
            passes(job, phase, found)
        # What a system or scorer has put in is validated as a reader will: a NaN is null there.
        answer = Record.model_validate_json(record(outcome="ok").model_dump_json())
    except Exception as error:
        if isinstance(error, ValidationError):
            found.pop("scores", None)
        for name in ("samples", "clips"):  # files of a failed cell are not kept
            found.pop(name, None)
        found["memory"] = measure.so_far(phase.resident, found.get("memory"))
        with contextlib.suppress(OSError):  # the log may be what fills the disk
            traceback.print_exc()
        answer = record(outcome=outcome_of(error), message=_message(error), stage_reached=phase.reached)
    write_atomically(job.work / RECORD, answer.model_dump_json())


class _Phase:
    """Where the worker is: announced to the driver, and named in the record after a failure."""

    def __init__(self, announcer: Announcer) -> None:
        self.announcer = announcer
        self.name = "load"
        self.stopwatch: measure.Stopwatch | None = None
        self.resident: measure.PeakResident | None = None

    def start_counting(self) -> int:
        """From now on peaks count above what is resident, which is returned."""
        baseline = measure.anonymous_bytes()
        self.resident = measure.PeakResident(baseline)
        self.announcer.baseline(baseline)
        return baseline

    def enter(self, name: str) -> measure.Stopwatch:
        self.name = name
        self.announcer.stage(name)
        return self.watch(_AnnouncedStopwatch(self.announcer, name))

    def watch(self, stopwatch: measure.Stopwatch) -> measure.Stopwatch:
        """Of whom it is asked where a failure happened."""
        self.stopwatch = stopwatch
        return stopwatch

    @property
    def reached(self) -> str:
        stages = self.stopwatch.current if self.stopwatch else []
        return ": ".join([self.name, *stages[-1:]])


def outcome_of(error: Exception) -> Outcome:
    """Which outcome an exception means."""
    if isinstance(error, WeightsMissing):
        return "weights-missing"
    if isinstance(error, UnsupportedError):
        return "unsupported"
    if isinstance(error, InvalidOutputError | ValidationError):
        return "invalid"
    return "oom" if is_out_of_memory(error) else "crashed"


ALLOCATORS = ("can't allocate memory", "bad_alloc", "STATUS_ALLOC_FAILED")
"""What the CPU allocator, C++ and CUDA's libraries say in a bare RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Python's, CUDA's and the kernel's, those that arrive as a RuntimeError, and what was raised from them."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in ALLOCATORS)
    return named or refused or said or (error.__cause__ is not None and is_out_of_memory(error.__cause__))


def _message(error: Exception) -> str:
    text = str(error).strip()
    typed = (WeightsMissing, UnsupportedError, InvalidOutputError)
    return text if isinstance(error, typed) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def _passes(job: Job, phase: _Phase, found: dict[str, Any]) -> None:
    cell, suite = job.cell, job.suite
    phase.enter("load")
    if cell.weights_missing:
        raise WeightsMissing(cell.weights_missing)
    system = systems.make(cell.adapter, cell.knobs)
    _set_threads(system, job.threads)
    baseline = phase.start_counting()
    clock = time.perf_counter()
    system.load()
    load = time.perf_counter() - clock
    facts = systems.facts_of(system)
    found["parameter_bytes"], found["flags"] = facts.parameter_bytes, facts.flags
    requests = suite.requests()

    first = _timed(job, system, requests, phase, 0, "first")
    found["cold_start"] = ColdStart(load=load, first=first.seconds)
    found["empty_region_seconds"] = measure.empty_region_seconds(stopwatch=phase.enter("clock"))

    timed = functools.partial(_timed, job, system, requests, phase)
    times = latency.latency(timed, suite, job.threads, first)
    found["cold_start"] = ColdStart(load=load, first=first.seconds, compile=times.compile)
    found["stages"], found["real_time_factor"] = times.stages, times.real_time_factor
    found["contamination"], found["flags"] = times.contamination, (*facts.flags, *times.flags)
    found["windows"], found["warnings"] = times.windows, times.warnings
    phase.enter("memory")
    kept: list[Output] = []

    def generate(stages: measure.Stopwatch) -> None:
        kept[:] = [_generate(system, _batch(requests, cell, 0), phase.watch(stages))]

    device = nvml.open_device()
    found["memory"] = measure.memory(generate, baseline, device)
    quiet = phase.enter("energy")
    found["energy_joules"] = energy.joules(
        lambda: _generate(system, _batch(requests, cell, 0), quiet), device
    )
    if RANDOM_WEIGHTS in cell.flags:
        return  # a score of noise would be taken for the system's
    phase.enter("quality")
    # One batch of all prompts, as a long video is, has been made already: scores mind no profiler.
    whole = len(requests) == cell.batch_size
    output = kept.pop() if whole else _quality(job, system, requests, phase)
    kept.clear()
    phase.enter("score")
    _score(job, system.fps, requests, output, found)


def _exam(job: Job, phase: _Phase, found: dict[str, Any]) -> None:
    """The scores are examined instead of a system."""
    phase.enter("exam")
    if job.cell.weights_missing:
        raise WeightsMissing(job.cell.weights_missing)
    scorer: Examinable = systems.find(job.suite.scorer, "scorer")
    _set_threads(scorer, job.threads)
    rows = [row.model_dump(mode="json") for row in scorer.exam(job.cell.prompts.count)]
    found["samples"] = write_samples(job.work, job.cell.id, rows)


def _analytic(job: Job, phase: _Phase, found: dict[str, Any]) -> None:
    """Systems are counted instead of run."""
    phase.enter("analytic")
    rows = [row.model_dump(mode="json") for row in systems.find(job.cell.adapter)()]
    found["samples"] = write_samples(job.work, job.cell.id, rows)


def _set_threads(part: System | Examinable, threads: int) -> None:
    if "torch" in part.imports:
        import torch

        torch.set_num_threads(threads)


def _batch(requests: Sequence[Request], cell: Cell, number: int) -> list[Request]:
    first = number * cell.batch_size
    return [requests[(first + place) % len(requests)] for place in range(cell.batch_size)]


def _generate(system: System, requests: Sequence[Request], stages: measure.Stopwatch) -> Output:
    output = system.generate(requests, stages)
    systems.check_output(output, len(requests))
    return output


def _timed(
    job: Job, system: System, requests: list[Request], phase: _Phase, number: int, name: str
) -> latency.Sample:
    """Text in, file out, for batch `number` of `batch_size` clips, in the pass `name`."""
    stopwatch = phase.enter(name)
    batch = _batch(requests, job.cell, number)
    gc.collect()
    with tempfile.TemporaryDirectory() as folder, stopwatch(END_TO_END):
        output = system.generate(batch, stopwatch)
        with stopwatch(FILE_ENCODE):
            for place, frames in enumerate(output.frames):
                write_video(Path(folder) / f"{place}.mp4", frames, system.fps)
    systems.check_output(output, len(batch))
    _check_scorable(job, system, batch, output)
    return latency.Sample(stopwatch.samples, len(batch) * output.frames.shape[1] / system.fps)


def _check_scorable(job: Job, system: System, requests: Sequence[Request], output: Output) -> None:
    """Raises UnsupportedError where the scorer will not take such clips, before all of them are made."""
    if RANDOM_WEIGHTS in job.cell.flags:
        return
    scorer: Scorer = systems.find(job.suite.scorer, "scorer")
    if why := objection(scorer, made(output, requests, system.fps)):
        raise UnsupportedError(why)


def _quality(job: Job, system: System, requests: list[Request], phase: _Phase) -> Output:
    """Every prompt with every seed, in batches that are as large as throughput wants."""
    size = job.suite.quality_batch
    outputs = []
    for start in range(0, len(requests), size):
        stopwatch = phase.enter("quality")
        outputs.append(_generate(system, requests[start : start + size], stopwatch))
        phase.announcer.progress(min(start + size, len(requests)) / len(requests))
    firsts = [output.first_frames for output in outputs if output.first_frames is not None]
    return Output(
        np.concatenate([output.frames for output in outputs]),
        np.concatenate(firsts) if len(firsts) == len(outputs) else None,
        outputs[0].starts,
    )


def _score(job: Job, fps: int, requests: list[Request], output: Output, found: dict[str, Any]) -> None:
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


def first_clip(job: Job, announcer: Announcer) -> None:
    """One clip from a cold system, the first sight of a run: first.mp4 and first.json in `job.work`."""
    announcer.stage("load")
    system = systems.make(job.cell.adapter, job.cell.knobs)
    _set_threads(system, job.threads)
    system.load()
    request = job.suite.requests()[0]
    announcer.stage("generate")
    clock = time.perf_counter()
    output = _generate(system, [request], measure.Stopwatch(measure.synchronise()))
    write_video(job.work / "first.mp4", output.frames[0], system.fps)
    seconds = time.perf_counter() - clock
    seen = FirstClip(
        path="first.mp4",
        prompt=request.prompt,
        system=job.cell.label,
        seconds=seconds,
        real_time_factor=seconds * system.fps / output.frames.shape[1],
    )
    write_atomically(job.work / "first.json", seen.model_dump_json())
