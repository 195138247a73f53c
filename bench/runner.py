"""The driver: runs a plan cell by cell, each in a process of its own, and alone appends to the store.

A record is appended when its samples and clips are in place, in one write. So a kill at any moment loses the
cell in flight and nothing else, and `resume` runs what has no record.
"""

from __future__ import annotations

import datetime
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from bench import measure, scale, systems, worker
from bench.cells import Cell
from bench.folders import LATEST
from bench.isolation import Ending, Isolation
from bench.jobs import RECORD, Answer, Display, Job
from bench.records import (
    Budget,
    FirstClip,
    Manifest,
    Outcome,
    Record,
    Store,
    latest,
    write_atomically,
)
from bench.suite import Suite

REPORT = "report.html"
REPORT_LIMIT = 120.0
PRELOAD_SECONDS, REPORT_SECONDS = 15.0, 2.0
"""What a plan adds for imports (once, if a system has any) and for the report (its share of a cell)."""
RETRIED: tuple[Outcome, ...] = ("crashed", "timeout", "oom", "invalid")
"""Outcomes that another attempt may change. The others say what a system is, or what is missing: weights that are
there make another cell.
"""
REPORT_EVERY = 120.0
"""Seconds between two reports of a run that goes on: drawing a late one takes ten."""
CLIP_BYTES, ROW_BYTES, CELL_BYTES = 24_000, 400, 12_000
"""What a plan takes a stored clip, a row of samples and a record to weigh."""


@dataclass(frozen=True)
class Options:
    """Of a run, not of its question: none changes a number."""

    suite_path: str
    threads: int
    report: bool
    ray: str | None = None
    retry: bool = False


def predicted(cells: Sequence[Cell], suite: Suite, past: Mapping[str, float], report: bool) -> list[Budget]:
    """One budget a cell, from what it took before, or from its system's own guess."""
    budgets = []
    for cell in cells:
        clips = cell.prompts.count * len(cell.seeds)
        size = min(suite.clips + 1, clips) * CLIP_BYTES + clips * ROW_BYTES + CELL_BYTES
        seconds = min(past.get(cell.id, cell.predicted_seconds), suite.time_limit)
        budgets.append(Budget(cells=1, seconds=seconds + REPORT_SECONDS * report, bytes=size))
    return budgets


def imports(suite: Suite, report: bool) -> list[str]:
    """Every module that a child may need, heavy ones first."""
    named = [word for name, spec in suite.systems.items() for word in spec.imports(name)]
    adapters = [spec.adapter.partition(":")[0] for spec in suite.systems.values()]
    scorers = dict.fromkeys([suite.scorer, *(spec.scorer for spec in suite.systems.values() if spec.scorer)])
    judges = [name for scorer in scorers for name in systems.find(scorer, "scorer").imports]
    # The first timed clip is shown to the scorer: what its module takes must not count as the system's.
    doors = [scorer.partition(":")[0] for scorer in scorers]
    own = ["bench.worker", *["reports.build"] * report]
    return list(dict.fromkeys([*named, *judges, *adapters, *doors, *own]))


class Driver:
    """Runs the cells of one run that have no record yet. Hold `folders.exclusive(run)` around it."""

    def __init__(
        self, run: Path, suite: Suite, manifest: Manifest, options: Options, display: Display
    ) -> None:
        self._run, self._suite, self._manifest = run, suite, manifest
        self._options, self._display = options, display
        self._store = Store(run)
        self._isolation = Isolation(imports(suite, options.report))
        self._work = run / ".work"
        self._next_report = 0.0

    def drive(self, cells: Sequence[Cell]) -> list[Record]:
        """Records of all `cells`, old and new. An interruption leaves everything finished so far."""
        start = time.monotonic()
        self._prepare()
        todo = pending(cells, self._store, self._manifest.fingerprint, self._options.retry)
        if todo:
            preload = self._isolation.preload()
            self._display.note(f"imported in {preload:.1f} s")
            self._first_sight(todo)
            for answer in self._answers(todo, preload):
                self._record(answer)
                # Elsewhere other cells are being timed, perhaps on this very machine: the report waits for the end.
                if self._options.report and not self._options.ray and time.monotonic() > self._next_report:
                    self._report()
                    self._next_report = time.monotonic() + REPORT_EVERY
        shutil.rmtree(self._work, ignore_errors=True)
        records = latest(self._store.records())
        done = [records[cell.id] for cell in cells]
        self._close(done, time.monotonic() - start, {cell.id for cell in todo})
        return done

    def _prepare(self) -> None:
        if self._store.repair():
            self._display.note("the last record was torn by a kill: its cell runs again")
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir()
        self._manifest.write(self._run)
        out = self._run.parent
        write_atomically(out / LATEST, self._run.name + "\n")
        target = f"{self._run.name}/{REPORT}"
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={target}"><a href="{target}">report</a>'
        write_atomically(out / f"{LATEST}.html", page + "\n")

    def _first_sight(self, todo: Sequence[Cell]) -> None:
        """One clip before anything is measured, so that a look tells whether the rest is worth the wait."""
        if self._manifest.first_clip is not None:
            return
        able = [
            cell for cell in todo if cell.kind == "cell" and not (cell.unsupported or cell.weights_missing)
        ]
        candidates = [cell for cell in able if cell.role == "system"] or able
        if not candidates:
            return
        sweep = [cell for cell in candidates if cell.system == candidates[0].system]
        cell = sweep[len(sweep) // 2]  # neither the cheapest of a sweep nor the dearest
        job = self._job(cell)
        ending = self._isolation.call(
            worker.first_clip, (job,), job.work / "log", self._suite.time_limit, self._progress(cell)
        )
        answer = job.work / "first.json"
        if not answer.exists():
            self._display.note(f"no first clip: {cell.label}: {ending.reason}")
            return
        clip = FirstClip.model_validate_json(answer.read_bytes())
        (job.work / clip.path).replace(self._run / clip.path)
        self._manifest = self._manifest.model_copy(update={"first_clip": clip})
        self._manifest.write(self._run)
        self._display.note(
            f"first clip: {self._run / clip.path} ({clip.system}, cold: {clip.seconds:.2f} s, "
            f"real-time factor {clip.real_time_factor:.2f})"
        )

    def _answers(self, todo: Sequence[Cell], preload: float) -> Iterator[Answer]:
        if self._options.ray:
            jobs = [self._job(cell) for cell in todo]
            yield from scale.answers(
                self._options.ray, jobs, imports(self._suite, report=False), self._display
            )
            return
        for cell in todo:
            self._display.cell_started(cell)
            job = self._job(cell)
            started = datetime.datetime.now(datetime.UTC)
            ending = self._isolation.call(
                worker.run_cell, (job,), job.work / "log", self._suite.time_limit, self._progress(cell)
            )
            yield Answer(job, ending, started, preload)

    def _record(self, answer: Answer) -> None:
        job, ending = answer.job, answer.ending
        record = read_answer(job, ending, answer.started)
        cold = record.cold_start.model_copy(update={"imports": answer.preload, "spawn": ending.spawn_seconds})
        record = record.model_copy(update={"cold_start": cold, "seconds": ending.seconds})
        self._keep(job, ending, record)
        self._store.append(record)
        shutil.rmtree(job.work, ignore_errors=True)
        self._display.cell_finished(job.cell, record)

    def _job(self, cell: Cell) -> Job:
        # A folder of its own for each attempt: what an orphan of a killed driver still writes lands nowhere.
        work = Path(tempfile.mkdtemp(prefix=f"{cell.id}-", dir=self._work)).absolute()
        command = f"python -m bench run {self._options.suite_path} --only {cell.id}"
        fingerprint = self._manifest.fingerprint
        suite = self._suite.asked_of(cell.system)
        return Job(cell, suite, fingerprint, self._options.threads, command, work)

    def _progress(self, cell: Cell) -> Callable[[str, float], None]:
        return lambda stage, share: self._display.cell_progress(cell, stage, share)

    def _keep(self, job: Job, ending: Ending, record: Record) -> None:
        """Moves what the record names into the run, and the log of a cell that said or broke something."""
        cell = job.cell.id
        for folder, entry in (("samples", f"{cell}.jsonl"), ("clips", cell)):
            source, target = job.work / folder / entry, self._run / folder / entry
            if target.is_dir():
                shutil.rmtree(target)
            if source.exists() and record.outcome == "ok":
                target.parent.mkdir(exist_ok=True)
                source.replace(target)
        log = self._run / "logs" / f"{cell}.txt"
        log.unlink(missing_ok=True)  # of an earlier attempt
        if ending.log and record.outcome != "ok":
            log.parent.mkdir(exist_ok=True)
            write_atomically(log, ending.log)

    def _report(self) -> None:
        """Rebuilds the report in a child: whatever happens to it, the run goes on."""
        arguments = ([self._run.absolute()], (self._run / REPORT).absolute())
        log = self._work / "report-log"
        ending = self._isolation.call(build_report, arguments, log, REPORT_LIMIT)
        if ending.timed_out or ending.exit_code != 0:
            reason = "it took too long" if ending.timed_out else ending.reason
            self._display.note(f"the report was not rebuilt: {reason}")
        log.unlink(missing_ok=True)

    def _close(self, records: Sequence[Record], wall: float, ran: set[str]) -> None:
        """Writes what the run took: its cells in all, and what this invocation spent around them."""
        around = wall - sum(record.seconds for record in records if record.cell in ran)
        measured = Budget(
            cells=len(records),
            seconds=sum(record.seconds for record in records) + around,
            bytes=sum(path.stat().st_size for path in self._run.rglob("*") if path.is_file()),
        )
        update = {"measured": measured, "finished": datetime.datetime.now(datetime.UTC)}
        self._manifest = self._manifest.model_copy(update=update)
        self._manifest.write(self._run)
        if self._options.report:
            self._work.mkdir(exist_ok=True)
            self._report()
            shutil.rmtree(self._work, ignore_errors=True)


def pending(cells: Sequence[Cell], store: Store, fingerprint: str, retry: bool = False) -> list[Cell]:
    """The cells without a record from this environment and code: a record from another answers another question.

    `retry`: and those whose record says that they failed in a way that may not happen again.
    """
    records = latest(store.records())

    def done(cell: Cell) -> bool:
        record = records.get(cell.id)
        if record is None or record.fingerprint != fingerprint:
            return False
        return record.sources_sha256 == cell.sources_sha256 and not (retry and record.outcome in RETRIED)

    return [cell for cell in cells if not done(cell)]


def read_answer(job: Job, ending: Ending, started: datetime.datetime) -> Record:
    """The worker's record, or one that says why there is none."""
    path = job.work / RECORD
    unreadable = ""
    if path.exists() and not ending.timed_out:
        try:
            return Record.model_validate_json(path.read_bytes())
        except ValidationError as error:
            unreadable = f"; its record cannot be read ({error.errors()[0]['msg']})"
    if ending.timed_out:
        outcome, message = "timeout", f"stopped at the time limit of {job.suite.time_limit:g} s"
    else:
        outcome, message = ("oom" if ending.killed_for_memory else "crashed"), ending.reason + unreadable
    return job.record(
        outcome=outcome,
        message=message,
        stage_reached=ending.stage or "start",
        started=started,
        seconds=ending.seconds,
        memory=None if ending.peak_resident is None else measure.only(resident=ending.peak_resident),
    )


def build_report(runs: list[Path], output: Path, announcer: object) -> None:
    """Found by name, in a child: the bench does not depend on its reports."""
    systems.find("reports.build:build", "report")(runs, output)
