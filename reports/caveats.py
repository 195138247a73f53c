"""What a reader must know before trusting a number: gaps, mixed environments, notes of the bench."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bench.records import SLOWER
from reports import text
from reports.clips import Strip
from reports.load import Run
from reports.metrics import Metric
from reports.overhead import FACTOR, overhead_bound
from reports.rows import Row


def caveats(
    runs: Sequence[Run],
    rows: Sequence[Row],
    metrics: Sequence[Metric],
    problems: Sequence[str],
    left_out: Sequence[Strip],
) -> list[str]:
    """Sentences, the gravest first; each appears once, with the cells that it holds for."""
    found = [*_gaps(runs, rows), *_environments(runs, rows), *_paces(runs, rows), *_protocols(metrics)]
    if left_out:
        titles = "; ".join(strip.title for strip in left_out)
        found.append(
            f"{text.count(len(left_out), 'row')} of clips left out to keep this file small: {titles}. "
            "The run folder has them all, under clips."
        )
    if bound := overhead_bound(rows):
        found.append(
            f"overhead-bound, since a clip's denoising step takes over {FACTOR:g} times what it takes in the largest "
            "batch, and fewer weights hardly make it faster: "
            + _labels([row for row in rows if row.key in bound])
        )
    return found + list(dict.fromkeys(problems)) + _noted(rows)


def _gaps(runs: Sequence[Run], rows: Sequence[Row]) -> list[str]:
    found = []
    for run in runs:
        if run.missing:
            total = len(
                {*(record.cell for record in run.records), *(planned.cell for planned in run.missing)}
            )
            found.append(
                f"Run {run.manifest.run} is not complete: {len(run.missing)} of {total} cells have no record yet. "
                "The verdict may change."
            )
    failed = [row for row in rows if row.record and not row.ok]
    if failed:
        found.append(
            f"{text.count(len(failed), 'cell')} without a result: " + _labels(failed, outcomes=True) + "."
        )
    return found


def _environments(runs: Sequence[Run], rows: Sequence[Row]) -> list[str]:
    found = []
    prints = {row.record.fingerprint for row in rows if row.record}
    if len(prints) > 1:
        found.append(
            "The cells come from different environments (machine, versions or source): times compare within one "
            "environment only. Fingerprints: " + ", ".join(sorted(prints)) + "."
        )
    found += [
        f"Run {run.manifest.run} was made from a source tree with uncommitted changes."
        for run in runs
        if run.manifest.environment.dirty
    ]
    return found


def _paces(runs: Sequence[Run], rows: Sequence[Row]) -> list[str]:
    """Of every run, beside which cells the machine was slower than beside most."""
    found = []
    for run in runs:
        paces = {row.key: row.pace for row in rows if row.run is run and row.pace is not None}
        usual = median(paces.values()) if paces else 0.0
        if slow := [row for row in rows if paces.get(row.key, 0.0) > SLOWER * usual]:
            worst = max(paces[row.key] for row in slow) / usual
            found.append(
                f"The machine of run {run.manifest.run} was slower beside {text.count(len(slow), 'cell')} than beside "
                f"most, so that latencies there may be too long: a fixed piece of work took up to {text.times(worst)} "
                f"the usual time, where {text.times(SLOWER)} is the limit ({_labels(slow)})."
            )
    return found


def _protocols(metrics: Sequence[Metric]) -> list[str]:
    by_name: dict[str, list[str]] = {}
    for metric in metrics:
        by_name.setdefault(metric.name, []).append(metric.protocol)
    return [
        f"{name} was measured by {len(protocols)} different protocols, which do not compare, so each has a column "
        "of its own: " + " | ".join(protocols) + "."
        for name, protocols in by_name.items()
        if len(protocols) > 1
    ]


def _noted(rows: Sequence[Row]) -> list[str]:
    """Warnings, flags and score notes of the records, grouped by their text."""
    by_text: dict[str, list[Row]] = {}
    for row in rows:
        if row.record:
            notes = [f"{name}: {score.note}" for name, score in row.record.scores.items() if score.note]
            for note in dict.fromkeys((*row.record.warnings, *row.record.flags, *notes)):
                by_text.setdefault(note, []).append(row)
    return [f"{note} ({_labels(found)})" for note, found in by_text.items()]


def _labels(rows: Sequence[Row], outcomes: bool = False) -> str:
    return ", ".join(f"{row.label} ({row.outcome})" if outcomes else row.label for row in rows)
