"""The analytic table: what systems must cost by arithmetic alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from bench.records import AnalyticRow, RecordError, read_samples
from reports.load import Run


@dataclass(frozen=True)
class Analytic:
    """The rows of one run. Floors are shown for `devices`, those that every row knows."""

    rows: tuple[AnalyticRow, ...]

    @property
    def devices(self) -> list[str]:
        return [
            name for name in self.rows[0].floor_seconds if all(name in r.floor_seconds for r in self.rows)
        ]


def tables(runs: Sequence[Run]) -> tuple[list[Analytic], list[str]]:
    """The tables, equal ones once, and what went wrong with the others."""
    found: list[Analytic] = []
    problems = []
    for run in runs:
        for record in (record for record in run.records if record.kind == "analytic"):
            if record.outcome != "ok":
                problems.append(f"No analytic table: {record.outcome}: {record.message}")
                continue
            try:
                table = Analytic(
                    tuple(AnalyticRow.model_validate(row) for row in read_samples(run.path, record))
                )
            except (RecordError, ValidationError) as error:
                problems.append(f"The analytic table cannot be read: {error}")
                continue
            if table.rows and table not in found:
                found.append(table)
    return found, problems


def hover(row: AnalyticRow) -> str:
    """What the numbers of a row rest on."""
    lines = [f"{row.passes} passes for {row.clip_seconds:.3g} s of video"]
    if row.deviation_from_claim is not None:
        lines.append(f"claimed: {row.claimed}; a denoiser here deviates by {row.deviation_from_claim:+.1%}")
    if row.deviation_from_checkpoint is not None:
        lines.append(f"from the checkpoint's own count: {row.deviation_from_checkpoint:+.2%}")
    return "\n".join([*lines, row.source])
