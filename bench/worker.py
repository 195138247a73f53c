"""One cell in one fresh process: load, then latency, memory and quality, each in a pass of its own.

Everything goes into a temporary folder laid out like a run (samples/, clips/) with the record beside it; the
driver moves it into the run. A cell that fails leaves a record too, unless its process was killed.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import gc
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench import energy, latency, measure, nvml, quality, systems
from bench.cells import Cell
from bench.errors import UnsupportedError
from bench.isolation import Announcer, memory_limit
from bench.jobs import RECORD, Job, message_of, outcome_of
from bench.records import (
    END_TO_END,
    RANDOM_WEIGHTS,
    ColdStart,
    FirstClip,
    Record,
    write_atomically,
    write_samples,
)
from bench.scorers import Examinable
from bench.systems import Output, Request, System
from magic141.errors import WeightsMissing
from magic141.stages import FILE_ENCODE
from magic141.video import write_video


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
        ending = {"outcome": outcome_of(error), "message": message_of(error), "stage_reached": phase.reached}
        try:
            answer = record(**ending)
        except ValidationError:  # what was found so far is what is wrong with it
            found.clear()
            answer = record(**ending)
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


def _passes(job: Job, phase: _Phase, found: dict[str, Any]) -> None:
    cell, suite = job.cell, job.suite
    phase.enter("load")
    if cell.weights_missing:
        raise WeightsMissing(cell.weights_missing)
    if cell.unsupported:
        raise UnsupportedError(cell.unsupported)
    system = systems.make(cell.adapter, cell.knobs)
    _set_threads(system, job.threads)
    baseline = phase.start_counting()
    clock = time.perf_counter()
    system.load()
    load = time.perf_counter() - clock
    _set_threads(system, job.threads)  # it may have brought torch with it
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

    def make(asked: Sequence[Request]) -> Output:
        return _generate(system, asked, phase.enter("quality"))

    # One batch of all prompts, as a long video is, has been made already: scores mind no profiler.
    whole = len(requests) == cell.batch_size
    output = (
        kept.pop()
        if whole
        else quality.answers(requests, suite.quality_batch, make, phase.announcer.progress)
    )
    kept.clear()
    phase.enter("score")
    quality.score(job, system.fps, requests, output, found)


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
    if "torch" in (*part.imports, *sys.modules):
        import torch

        torch.set_num_threads(threads)


def _batch(requests: Sequence[Request], cell: Cell, number: int) -> list[Request]:
    first = number * cell.batch_size
    return [requests[(first + place) % len(requests)] for place in range(cell.batch_size)]


def _generate(system: System, requests: Sequence[Request], stages: measure.Stopwatch) -> Output:
    output = system.generate(requests, systems.Marks(stages))
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
        output = system.generate(batch, systems.Marks(stopwatch))
        systems.check_shape(output, len(batch))
        with stopwatch(FILE_ENCODE):
            for place, frames in enumerate(output.frames):
                write_video(Path(folder) / f"{place}.mp4", frames, system.fps)
    systems.check_output(output, len(batch))
    quality.check_scorable(job, system, batch, output)
    return latency.Sample(stopwatch.samples, len(batch) * output.frames.shape[1] / system.fps)


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
