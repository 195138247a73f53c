"""What the command line prints: plans, rows of a run, comparisons, progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from bench.cells import Cell
from bench.check import Finding
from bench.compare import Difference
from bench.records import (
    END_TO_END,
    NOT_MEASURABLE,
    RESIDENT,
    AnalyticRow,
    Budget,
    Bytes,
    Manifest,
    Record,
    Score,
)
from bench.shards import Merged

METRICS_A_TABLE = 3
"""As many as eighty columns hold with their intervals in one line."""
CELL, ASKS = "cell", "asks"
SHOWN_ID = 8
"""Digits of a cell id that tables show; commands take any beginning that is unambiguous."""
WHOLE = {CELL: SHOWN_ID, ASKS: len("num_inference_steps=56")}
"""Columns whose words are not broken, and how wide that makes them."""


def seconds(value: float) -> str:
    """A duration as a person reads it."""
    if value < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.1f} s" if value < 120 else f"{int(value // 60)} min {int(value % 60):02d} s"


def size(value: Bytes) -> str:
    """Bytes as MB, or the words that stand in their place."""
    return value if value == NOT_MEASURABLE else f"{int(value) / 1e6:.1f} MB"


def number(score: Score) -> str:
    """A score with half the width of its interval."""
    if score.value is None:
        return "undefined"
    if score.low is None or score.high is None:
        return f"{score.value:.3g}"
    return f"{score.value:.3g} ± {(score.high - score.low) / 2:.2g}"


def selection(choice: Mapping[str, Any]) -> Table:
    """Candidates by cost, the best first, with the parts of the cost."""
    parts = ("quality", "attributes", "motion", "diversity")
    table = Table(Column("candidate", overflow="fold"), Column("cost", justify="right"), box=None)
    for part in parts:
        table.add_column(part, justify="right")
    for row in choice["candidates"]:
        if row["cost"] is None:
            table.add_row(row["candidate"], "none", row["why"])
        else:
            table.add_row(
                row["candidate"], *(f"{x:.3f}" for x in (row["cost"], *map(row["terms"].get, parts)))
            )
    return table


def plan(cells: Sequence[Cell], budgets: Sequence[Budget], done: set[str]) -> Table:
    table = folding(CELL, ASKS, "predicted", title=f"{len(cells)} cells", title_justify="left")
    for cell, budget in zip(cells, budgets, strict=True):
        when = "done" if cell.id in done else seconds(budget.seconds)
        table.add_row(cell.id[:SHOWN_ID], Text(cell.label + _decided(cell)), when)
    return table


def _decided(cell: Cell) -> str:
    """What is known of its outcome before it runs."""
    return " (no weights)" if cell.weights_missing else " (unsupported)" if cell.unsupported else ""


def rows(records: Sequence[Record]) -> Group:
    """What cells cost, then what they scored, a few metrics at a time so that a narrow terminal shows them."""
    cost = folding(CELL, ASKS, "outcome", "a clip", "real time ×", "memory")
    labels = {record.cell: label(record, records) for record in records}
    for record in (record for record in records if record.kind == "cell"):
        whole, factor = record.stages.get(END_TO_END), record.real_time_factor
        cost.add_row(
            record.cell[:SHOWN_ID],
            Text(labels[record.cell]),
            ", ".join([record.outcome, *record.flags]),
            seconds(whole.median / int(record.knobs.get("batch_size") or 1)) if whole else "",
            f"{factor.median:.2f}" if factor else "",
            _memory(record),
        )
    metrics = list(dict.fromkeys(name for record in records for name in record.scores))
    scored = [record for record in records if record.scores]
    parts: list[Table] = [cost]
    for start in range(0, len(metrics), METRICS_A_TABLE):
        shown = metrics[start : start + METRICS_A_TABLE]
        table = folding(ASKS, *shown)
        for record in (record for record in scored if not record.scores.keys().isdisjoint(shown)):
            cells = (number(record.scores[name]) if name in record.scores else "" for name in shown)
            table.add_row(Text(labels[record.cell]), *cells)
        parts.append(table)
    failed = [record for record in records if record.outcome != "ok"]
    reasons = (f"{r.cell[:SHOWN_ID]} {r.outcome} at {r.stage_reached}: {r.message}" for r in failed)
    return Group(*parts, *(Text(reason) for reason in reasons))


def analytic(found: Sequence[AnalyticRow]) -> Group:
    """What systems must cost: sizes and arithmetic, then the floor on every device."""
    cost = folding("system", "clip", "parameters", "tokens", "PFLOP a pass", "passes", "PFLOP a clip")
    floors = folding("seconds a clip, at least", "clip", *found[0].floor_seconds)
    for row in found:
        tokens = f"{row.video_tokens:,} + {row.other_tokens:,}"
        arithmetic = f"{row.pass_flops / 1e15:.3g}", str(row.passes), f"{row.clip_flops / 1e15:.3g}"
        cost.add_row(row.system, row.setting, f"{row.parameters / 1e9:.2f} B", tokens, *arithmetic)
        floors.add_row(row.system, row.setting, *(f"{value:.3g}" for value in row.floor_seconds.values()))
    return Group(cost, floors)


def merged(found: Merged) -> str:
    """What a merge made, with the cells that no run answers."""
    lines = [f"{len(found.records)} cells in {found.run}"]
    if found.twice:
        ids = ", ".join(cell[:SHOWN_ID] for cell in found.twice)
        lines.append(f"in several runs, the latest kept: {ids}")
    if found.missing:
        lines.append(f"not complete: {len(found.missing)} cells are in no run")
    for planned in found.missing:
        knobs = " ".join(f"{name}={value}" for name, value in planned.knobs.items())
        lines.append(f"missing: {planned.cell[:SHOWN_ID]} {planned.system} {knobs}")
    return "\n".join(lines)


def contract(found: Sequence[Finding]) -> Table:
    table = folding("the system", "holds", "seen")
    for finding in found:
        table.add_row(finding.name, "yes" if finding.passed else "NO", Text(finding.seen))
    return table


def label(record: Record, records: Sequence[Record]) -> str:
    """The system, and those of its knobs that vary within it."""
    own = [other for other in records if other.system == record.system]
    return " ".join([record.system, *(f"{name}={record.knobs[name]}" for name in varied_knobs(own))])


def varied_knobs(records: Sequence[Record]) -> list[str]:
    """Knobs that do not have one value in all records that have them."""
    names = dict.fromkeys(name for record in records for name in record.knobs)
    values = {name: {repr(r.knobs[name]) for r in records if name in r.knobs} for name in names}
    return [name for name in names if len(values[name]) > 1]


def _memory(record: Record) -> str:
    if record.memory is None:
        return ""
    peak = record.memory.peak
    return NOT_MEASURABLE if peak is None else f"{size(peak.bytes)}{' resident' * (peak.kind == RESIDENT)}"


def runs(folders: Sequence[tuple[Path, Manifest, Sequence[Record]]]) -> Table:
    table = folding("run", "suite", "started", "cells", "ok", "took", "environment")
    for folder, manifest, records in folders:
        took = seconds(manifest.measured.seconds) if manifest.measured else "unfinished"
        good = sum(record.outcome == "ok" for record in records)
        started = f"{manifest.started:%Y-%m-%d %H:%M}"
        done = f"{len(records)}/{len(manifest.plan)}"
        table.add_row(folder.name, manifest.suite, started, done, str(good), took, manifest.fingerprint)
    return table


def differences(found: Sequence[Difference]) -> Group:
    """A table a cell under its name, which needs no column then: numbers have the room."""
    tables: dict[tuple[str, str], Table] = {}
    for one in found:
        name = (one.cell[:SHOWN_ID], one.label)
        if name not in tables:
            columns = ("what", "first", "second", "difference", "n", "verdict")
            tables[name] = folding(*columns, title=Text(" ".join(name)), title_justify="left")
        row = (one.what, one.first, one.second, one.interval, one.n, one.verdict)
        tables[name].add_row(*row)
    return Group(*tables.values())


def folding(*columns: str, **options: Any) -> Table:
    """A table that goes on in the next line where a terminal is narrow, and cuts nothing off. Without lines, which
    would take a quarter of eighty columns.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", **options)
    for name in columns:
        table.add_column(name, overflow="fold", min_width=WHOLE.get(name))
    return table


class Live:
    """Progress on a terminal; one line a cell everywhere."""

    def __init__(self, console: Console, cells: Sequence[Cell], budgets: Sequence[Budget]) -> None:
        self._console = console
        self._predicted = {cell.id: budget.seconds for cell, budget in zip(cells, budgets, strict=True)}
        self._left = dict(self._predicted)
        self._started = self._finished = 0
        self._total = len(cells)
        self._spent = self._planned = 0.0
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[eta]}"))
        self.progress = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
        self._task: TaskID = self.progress.add_task("preparing", total=sum(self._left.values()), eta="")

    def note(self, text: str) -> None:
        self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def cell_started(self, cell: Cell) -> None:
        self._started += 1

    def cell_progress(self, cell: Cell, stage: str, share: float) -> None:
        left = self._left[cell.id] * (1 - share)
        done = sum(self._predicted.values()) - sum(self._left.values()) + self._left[cell.id] - left
        eta = left + sum(value for key, value in self._left.items() if key != cell.id)
        # Predictions are off by one factor for all cells more than they are off cell by cell.
        pace = self._spent / self._planned if self._planned else 1.0
        text = f"{self._started}/{self._total} {cell.label}: {stage or 'start'}"
        self.progress.update(self._task, completed=done, description=text, eta=f"{seconds(eta * pace)} left")

    def cell_finished(self, cell: Cell, record: Record) -> None:
        self._finished += 1
        self._spent += record.seconds
        self._planned += self._predicted[cell.id]
        self._left[cell.id] = 0.0
        factor = f", real-time factor {record.real_time_factor.median:.2f}" if record.real_time_factor else ""
        reason = f": {record.message}" if record.outcome != "ok" else factor
        head = f"[{self._finished}/{self._total}] {cell.label}: {record.outcome}"
        self.note(f"{head} in {seconds(record.seconds)}{reason}")
