"""What `bench run` does between its arguments and the driver: everything that can be refused, before anything runs."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.table import Table

from bench import folders, hardware, runner, scale, shards, tables
from bench import suite as suites
from bench.cell_words import only_cells
from bench.cells import Cell
from bench.errors import RunError, SuiteError
from bench.measure import EMPTY_LIMIT
from bench.records import DECIDED, Budget, Environment, Manifest, PlannedCell, Record, Store, latest
from bench.suite import Suite

INTERRUPTED = 130


@dataclass(frozen=True)
class Command:
    """A run that has been checked. `folder` is None for a new one."""

    suite: Suite
    suite_path: str
    cells: list[Cell]
    budgets: list[Budget]
    asked: tuple[PlannedCell, ...]
    shard: str | None
    done: set[str]
    out: Path
    folder: Path | None
    old: Manifest | None
    environment: Environment
    report: bool
    ray: str | None
    retry: bool
    failed: tuple[Record, ...]
    """Of the cells that are done, those whose failure `retry` would try again."""
    changed: tuple[str, ...]
    """Systems with records that other code outside this repository made."""

    @classmethod
    def make(
        cls,
        path: Path | None,
        resume: str | None,
        out: Path,
        only: Sequence[str],
        report: bool,
        shard: str | None = None,
        ray: str | None = None,
        retry: bool = False,
    ) -> Self:
        """Raises SuiteError, RunError, RecordError; has written nothing."""
        folder = old = None
        if retry and resume is None:
            raise RunError("--retry runs failed cells of a run again: name the run with --resume RUN")
        if resume is not None:
            folder = folders.locate(resume, out)
            old, out = Manifest.read(folder), folder.parent
        if path is not None:
            suite, suite_path = suites.read(path), path.as_posix()
            if old is not None and suite.name != old.suite:
                raise SuiteError(
                    f"{folder} is a run of suite {old.suite!r}, and {path} is {suite.name!r}: "
                    "resume it without a suite, or run this one without --resume"
                )
        elif old is not None:
            suite, suite_path = suites.parse(old.question, f"{folder}/run.json"), old.suite_path
        else:
            raise SuiteError("name a suite, such as bench/suites/lab.yaml, or a run to --resume")
        cells = suite.cells()
        if path is None and old is not None and folder is not None:
            _check_asked(cells, old, folder)
        if path is None and old is not None and not only:
            # What was asked with --only is resumed as it was asked.
            chosen = [cell for cell in cells if any(_planned(cell, one) for one in old.plan)]
            cells = chosen if len(chosen) >= len(old.plan) else cells
        cells = only_cells(cells, only)
        past = folders.history(out)
        asked: tuple[PlannedCell, ...] = ()
        if shard is not None:
            asked = planned(cells, runner.predicted(cells, suite, past, report))
            cells = shards.split(cells, shard)
        if ray is not None:
            scale.require()
        folders.check_writable(out if folder is None else folder)
        environment = hardware.environment(suite.threads)
        done: set[str] = set()
        failed: tuple[Record, ...] = ()
        changed: tuple[str, ...] = ()
        if folder is not None:
            store, fingerprint = Store(folder), environment.fingerprint
            todo = {cell.id for cell in runner.pending(cells, store, fingerprint, retry)}
            done = {cell.id for cell in cells} - todo
            records = latest(store.records())
            kept = [records[cell.id] for cell in cells if cell.id in done]
            failed = tuple(record for record in kept if record.outcome in runner.RETRIED)
            changed = _changed(cells, records)
        if old is not None and shard is None:
            asked, shard = old.asked, old.shard
        return cls(
            suite=suite,
            suite_path=suite_path,
            cells=cells,
            budgets=runner.predicted(cells, suite, past, report),
            asked=asked,
            shard=shard,
            done=done,
            out=out,
            folder=folder,
            old=old,
            environment=environment,
            report=report,
            ray=ray,
            retry=retry,
            failed=failed,
            changed=changed,
        )

    def plan(self) -> Table:
        return tables.plan(self.cells, self.budgets, self.done)

    @property
    def predicted(self) -> Budget:
        """Of the cells that have no record yet, with the imports before them."""
        left = [b for cell, b in zip(self.cells, self.budgets, strict=True) if cell.id not in self.done]
        heavy = any(spec.imports(name) for name, spec in self.suite.systems.items())
        preload = runner.PRELOAD_SECONDS if left and heavy else 0.0
        return Budget(
            cells=len(left), seconds=preload + sum(b.seconds for b in left), bytes=sum(b.bytes for b in left)
        )

    def summary(self) -> str:
        left = self.predicted
        lines = [
            f"predicted: {left.cells} cells, {tables.seconds(left.seconds)}, {left.bytes / 1e6:.1f} MB on disk"
        ]
        if self.shard is not None:
            lines.append(f"shard {self.shard}: {len(self.cells)} of {len(self.asked)} cells")
        if self.old is not None:
            lines.append(f"resuming {self.folder}: {len(self.done)} of {len(self.cells)} cells are done")
            if self.failed:
                outcomes = Counter(record.outcome for record in self.failed)
                counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
                lines.append(f"of these {len(self.failed)} failed ({counts}): --retry runs them again")
            if self.changed:
                lines.append(
                    f"the code behind {', '.join(self.changed)} has changed since: these cells run again"
                )
            if self.old.fingerprint != self.environment.fingerprint:
                lines.append(
                    "the environment has changed since (code, packages or machine): all cells run again"
                )
        return "\n".join(lines)

    def execute(self, console: Console, command: str) -> int:
        """Runs what is left; returns the exit code: 130 after Ctrl-C, 1 where no cell ended well, else 0."""
        run = self.folder or folders.create(self.out, self.suite.name)
        display = tables.Live(console, self.cells, self.budgets)
        options = runner.Options(self.suite_path, self.environment.threads, self.report, self.ray, self.retry)
        try:
            with folders.exclusive(run), display.progress:
                driver = runner.Driver(run, self.suite, self.manifest(run, command), options, display)
                records = driver.drive(self.cells)
        except KeyboardInterrupt:
            display.note(f"interrupted: {_resumption(run)} runs what is left")
            return INTERRUPTED
        except OSError as error:
            raise RunError(
                f"the run stopped: {error}. What is recorded is whole: when the cause is mended (a full disk, say), "
                f"{_resumption(run)} runs what is left"
            ) from error
        console.print(tables.rows(records))
        self._sum_up(console, run, Manifest.read(run))
        return 0 if any(record.outcome == "ok" for record in records) else 1

    def manifest(self, run: Path, command: str) -> Manifest:
        known = {} if self.old is None else {planned.cell: planned for planned in self.old.plan}
        for one in planned(self.cells, self.budgets):
            known.setdefault(one.cell, one)
        return Manifest(
            run=run.name,
            suite=self.suite.name,
            suite_path=self.suite_path,
            question=self.suite.model_dump(mode="json"),
            command=command if self.old is None else self.old.command,
            started=datetime.datetime.now(datetime.UTC) if self.old is None else self.old.started,
            fingerprint=self.environment.fingerprint,
            environment=self.environment,
            plan=tuple(known.values()),
            shard=self.shard,
            asked=self.asked,
            predicted=self.predicted if self.old is None else self.old.predicted,
            first_clip=None if self.old is None else self.old.first_clip,
        )

    def _sum_up(self, console: Console, run: Path, manifest: Manifest) -> None:
        records = latest(Store(run).records()).values()
        bad = sum(record.outcome != "ok" for record in records)
        lines = [f"{len(records)} cells, {bad} not ok" if bad else f"{len(records)} cells, all ok"]
        if manifest.measured is not None:
            took, guess = manifest.measured, manifest.predicted
            lines.append(
                f"took {tables.seconds(took.seconds)} (predicted {tables.seconds(guess.seconds)}), "
                f"{took.bytes / 1e6:.1f} MB (predicted {guess.bytes / 1e6:.1f} MB)"
            )
        empty = [record.empty_region_seconds for record in records if record.empty_region_seconds]
        if empty:
            cost = max(empty)
            says = "" if cost <= EMPTY_LIMIT else ": too much for short stages, so quieten this machine"
            lines.append(f"an empty timed region costs {cost * 1e6:.1f} µs at most{says}")
        report = run / runner.REPORT
        lines.append(f"report: {report}" if report.exists() else f"records: {run}")
        console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _resumption(run: Path) -> str:
    """A command that needs no environment but its own."""
    return f"python -m nox -s bench -- --resume {run}"


def planned(cells: Sequence[Cell], budgets: Sequence[Budget]) -> tuple[PlannedCell, ...]:
    """Cells as a manifest holds them."""
    return tuple(
        PlannedCell(
            cell=cell.id,
            system=cell.system,
            knobs=cell.knobs,
            seconds=budget.seconds,
            bytes=budget.bytes,
            flags=cell.flags,
            prompts_sha256=cell.prompts.sha256 if cell.kind == "cell" else None,
        )
        for cell, budget in zip(cells, budgets, strict=True)
    )


def _changed(cells: Sequence[Cell], records: Mapping[str, Record]) -> tuple[str, ...]:
    old = (
        cell.system
        for cell in cells
        if (record := records.get(cell.id))
        and record.adapter  # of a version that wrote its sources down
        and record.sources_sha256 != cell.sources_sha256
    )
    return tuple(dict.fromkeys(old))


def _check_asked(cells: Sequence[Cell], old: Manifest, run: Path) -> None:
    """Raises RunError where a run would be continued with another question than it began with. Weights that have come
    since are no other question.
    """
    for cell in cells:
        then = {one.prompts_sha256 for one in old.plan if one.prompts_sha256 and _planned(cell, one)}
        if then and cell.prompts.sha256 not in then:
            raise RunError(
                f"{run} cannot be resumed: the prompts of {cell.system} ({cell.prompts.source}) are not those that it "
                "began with. Put them back, or ask the new ones in a run of their own, without --resume"
            )
    records = latest(Store(run).records())
    answered = [cell for cell, record in records.items() if record.outcome not in DECIDED]
    if answered and not set(answered) & {cell.id for cell in cells}:
        raise RunError(
            f"{run} cannot be resumed: none of its {len(answered)} cells is asked any more. Prompts, weights or scores "
            "have changed since: put them back, or ask anew in a run of its own, without --resume"
        )


def _planned(cell: Cell, then: PlannedCell) -> bool:
    """Whether `then` was planned as `cell`; a knob that its system has learned since says nothing."""
    return cell.system == then.system and all(
        cell.knobs.get(name) == value for name, value in then.knobs.items()
    )
