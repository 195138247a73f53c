"""Every cell of every run as one row: finished, failed or not run yet, never a hole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.records import END_TO_END, MASKED, RANDOM_WEIGHTS, Knob, PlannedCell, Record, Timing
from reports.load import Run

NO_ANCHOR = r"[^\w-]"
STEPS = "num_inference_steps"
SECONDS = "seconds"
FROM_IMAGE = "image to video"
"""The value of the knob `task` of systems that are given the first frame."""


@dataclass(frozen=True)
class Row:
    """A cell with the words that name it. `record` is None where the cell was planned but has no record.

    `series` names the curve it belongs to: cells that differ by their step count only (and by what was tuned
    for that step count) share one.
    """

    key: str
    run: Run
    label: str
    series: str
    system: str
    knobs: dict[str, Knob]
    record: Record | None
    planned: PlannedCell | None

    @property
    def ok(self) -> bool:
        return self.record is not None and self.record.outcome == "ok"

    @property
    def untrained(self) -> bool:
        """Whether its weights are random: then it has costs and no quality, and its label says so."""
        return _untrained(self.record or self.planned)

    @property
    def reference(self) -> bool:
        return self.record is not None and self.record.role == "reference"

    @property
    def short(self) -> str:
        """The label without the system, where something is left of it."""
        return self.label.removeprefix(f"{self.system} · ")

    @property
    def outcome(self) -> str:
        return self.record.outcome if self.record else "not run yet"

    @property
    def steps(self) -> int | None:
        value = self.knobs.get(STEPS)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def long(self) -> float | None:
        """Seconds of a long video that was asked for, made in windows or not; None for clips."""
        value = self.knobs.get(SECONDS)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    @property
    def latency(self) -> Timing | None:
        """Seconds from text to encoded file for one batch of clips, warm."""
        return self.record.stages.get(END_TO_END) if self.record else None

    @property
    def clip_seconds(self) -> float:
        """Seconds of wall time for one clip, warm: of a batch, its share. Infinite where nothing was timed."""
        batch = self.knobs.get("batch_size")
        size = batch if isinstance(batch, int) and batch > 0 else 1
        return self.latency.median / size if self.latency else float("inf")

    @property
    def pace(self) -> float | None:
        """Seconds that a fixed piece of work took beside its timed samples, the valid ones if there are any: how slow
        the machine was.
        """
        seen = self.record.contamination if self.record else ()
        paces = [one.pace for one in ([s for s in seen if not s.reasons] or seen) if one.pace is not None]
        return median(paces) if paces else None

    @property
    def masked(self) -> bool:
        """Whether its zeros are stored and multiplied like other numbers: then a shorter time is chance."""
        return self.record is not None and MASKED in self.record.flags

    @property
    def work(self) -> tuple[bool, float | None, str]:
        """What is made: from a given picture or not, the seconds of a long video, and of which prompts. Of equal work
        only can it be said that one setting is better or cheaper than another.
        """
        prompts = self.record.prompts.sha256 if self.record and self.record.prompts else ""
        return self.knobs.get("task") == FROM_IMAGE, self.long, prompts

    @property
    def environment(self) -> str:
        """Only within one may times be compared; empty before there is a record."""
        return self.record.fingerprint if self.record else ""

    @property
    def video_seconds(self) -> float | None:
        """Seconds of video in one batch of clips."""
        if self.record is None or self.record.real_time_factor is None or self.latency is None:
            return None
        return self.latency.median / self.record.real_time_factor.median


def rows(runs: Sequence[Run]) -> list[Row]:
    """Rows of cells: systems by curve and step count first, then references, in the order of the records."""
    found: list[Row] = []
    for index, run in enumerate(runs):
        where = f" ({run.tag})" if run.tag else ""
        cells: list[Record | PlannedCell] = [record for record in run.records if record.kind == "cell"]
        cells += run.missing
        systems = dict.fromkeys(cell.system for cell in cells)
        for system in systems:
            found += _system_rows(
                index, run, system, where, [cell for cell in cells if cell.system == system]
            )
    return [row for row in found if not row.reference] + [row for row in found if row.reference]


def _system_rows(
    index: int, run: Run, system: str, where: str, cells: Sequence[Record | PlannedCell]
) -> list[Row]:
    splitting = _splitting_knobs(cells)
    naming = _naming_knobs(cells, splitting)
    made = []
    for cell in cells:
        record = cell if isinstance(cell, Record) else None
        random = " (random weights)" if _untrained(cell) else ""
        made.append(
            Row(
                key=f"cell-{index}-{re.sub(NO_ANCHOR, '_', cell.cell)}",
                run=run,
                label=_name(system, cell.knobs, naming) + random + where,
                series=_name(system, cell.knobs, splitting) + random + where,
                system=system,
                knobs=cell.knobs,
                record=record,
                planned=cell if isinstance(cell, PlannedCell) else None,
            )
        )
    order = list(dict.fromkeys(row.series for row in made))
    return sorted(made, key=lambda row: (order.index(row.series), row.steps or 0))


def _untrained(cell: Record | PlannedCell | None) -> bool:
    return cell is not None and RANDOM_WEIGHTS in cell.flags


def _splitting_knobs(cells: Sequence[Record | PlannedCell]) -> list[str]:
    """Knobs that differ between cells of equal step count. Guidance tuned per step count is not one of them,
    nor is a knob that another one determines.
    """
    by_steps: dict[Knob, list[dict[str, Knob]]] = {}
    for cell in cells:
        by_steps.setdefault(cell.knobs.get(STEPS), []).append(cell.knobs)
    found = [name for name in _varying(cells) if any(_differs(name, group) for group in by_steps.values())]
    for name in reversed(found):
        rest = [other for other in found if other != name]
        if rest and _distinct(rest, cells) == _distinct(found, cells):
            found = rest
    return found


def _distinct(names: Sequence[str], cells: Sequence[Record | PlannedCell]) -> int:
    return len({tuple(str(cell.knobs.get(name)) for name in names) for cell in cells})


def _naming_knobs(cells: Sequence[Record | PlannedCell], splitting: Sequence[str]) -> list[str]:
    """The step count and the knobs that split curves; together they tell all cells of a system apart."""
    has_steps = any(cell.knobs.get(STEPS) is not None for cell in cells)
    return ([STEPS] if has_steps else []) + [name for name in splitting if name != STEPS]


def _varying(cells: Iterable[Record | PlannedCell]) -> list[str]:
    knobs = [cell.knobs for cell in cells]
    names = dict.fromkeys(name for group in knobs for name in group)
    return [name for name in names if name != STEPS and _differs(name, knobs)]


def _differs(name: str, knobs: Sequence[dict[str, Knob]]) -> bool:
    return len({str(group.get(name)) for group in knobs}) > 1


def _name(system: str, knobs: dict[str, Knob], naming: Sequence[str]) -> str:
    return " · ".join(
        [system, *(knob_text(name, knobs[name]) for name in naming if knobs.get(name) is not None)]
    )


def knob_text(name: str, value: Knob) -> str:
    """`8 steps`, `sparsity 0.5`."""
    if name == STEPS:
        return f"{value}\u00a0step{'' if value == 1 else 's'}"
    return f"{name.replace('_', ' ')} {value}"
