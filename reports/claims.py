"""The claims table: what the paper says, what was asked here, what came out. Written by `bench claims`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.figure import Figure
from pydantic import ValidationError

from bench.records import (
    CLAIMS,
    END_TO_END,
    PUBLISHED_CLAIMS,
    ClaimRow,
    ClaimsTable,
    Curve,
    StepRow,
    Timing,
)
from reports import svg, text
from reports.load import Run

SIZE = (4.4, 2.9)


@dataclass(frozen=True)
class Line:
    """A claim with its number as text, and its figure, where it has one."""

    row: ClaimRow
    shown: str
    bounds: str
    figure: Markup | None


@dataclass(frozen=True)
class Step:
    """What a model makes in so many steps, and what that took, where these runs have it."""

    row: StepRow
    latency: Timing | None


@dataclass(frozen=True)
class Claims:
    """All claims, as the last `bench claims` in the results folder left them, or as they are committed (`published`).

    `scale`: quick or full. `steps`: what each number of steps makes, asked as `steps_protocol` says; `scores` are
    those that a row of it has, and `timed` is whether any row has a latency.
    """

    scale: str
    published: bool
    lines: tuple[Line, ...]
    steps: tuple[Step, ...]
    steps_protocol: str

    @property
    def scores(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for step in self.steps for name in step.row.scores))

    @property
    def timed(self) -> bool:
        return any(step.latency for step in self.steps)


def claims(runs: Sequence[Run]) -> tuple[Claims | None, list[str]]:
    """The table beside the first run that has one, or the published one, and what went wrong with others.

    Of those whose teacher a run has asked; one beside a run need not say whose it is. A quick table gives way to a full
    one.
    """
    problems, found = [], []
    beside = dict.fromkeys(run.path.resolve().parent / CLAIMS for run in runs)
    for path in (*beside, PUBLISHED_CLAIMS):
        published = path == PUBLISHED_CLAIMS
        if not path.exists():
            continue
        try:
            table = ClaimsTable.model_validate_json(path.read_bytes())
        except (ValidationError, OSError) as error:
            problems.append(f"The claims table {path.name} cannot be read: {error}")
            continue
        if _asked(table.teacher, runs) or not (published or table.teacher):
            found.append((table, published))
    if not found:
        return None, problems
    table, published = next((one for one in found if one[0].scale == "full"), found[0])
    lines = tuple(_line(row, f"claim-{row.id}") for row in table.rows)
    steps = tuple(Step(row, _latency(row, runs)) for row in table.steps)
    return Claims(table.scale, published, lines, steps, table.steps_protocol), problems


def _asked(teacher: str, runs: Sequence[Run]) -> bool:
    hashes = (record.weights_sha256 or "" for run in runs for record in run.records)
    return bool(teacher) and any(known.startswith(teacher) for known in hashes)


def _latency(row: StepRow, runs: Sequence[Run]) -> Timing | None:
    """Of a clip from text to file with the same model, steps and passes, in these runs. What a row makes from a true
    first frame needs its picture first.
    """
    wanted = {
        "model": row.model,
        "num_inference_steps": row.steps,
        "task": "text to video" if row.task == "image to video" else row.task,
        "num_frames": 33,  # as every row's clips have
        "batch_size": 1,
        "sparsity": "none",
        "solver": row.solver,
    }
    for record in (record for run in runs for record in run.records):
        guided = record.knobs.get("guidance_scale") != 1
        same = all(record.knobs.get(name) == value for name, value in wanted.items())
        # A long video has those knobs too, and its length. A cell that failed has no time, and another run may.
        if not same or guided != (row.passes > row.steps) or "seconds" in record.knobs:
            continue
        if (time := record.stages.get(END_TO_END)) is not None:
            return time
    return None


def _line(row: ClaimRow, name: str) -> Line:
    shown = "–" if row.value is None else text.number(row.value, row.low, row.high)
    figure = Markup(plot(row, name)) if any(curve.points for curve in row.curves) else None
    return Line(row, shown, text.interval(row.value, row.low, row.high), figure)


def plot(row: ClaimRow, name: str) -> str:
    """Curves of a claim, mean over seeds with its 95 % band."""
    with svg.style():
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for index, curve in enumerate(curve for curve in row.curves if curve.points):
            colour = svg.SERIES[index % len(svg.SERIES)]
            x, y = [point.x for point in curve.points], [point.y for point in curve.points]
            axes.plot(x, y, marker="o", markersize=3.5, color=colour, label=curve.name)
            if (band := _band(curve)) is not None:
                axes.fill_between(x, *band, color=colour, alpha=0.15, linewidth=0)
        axes.set_xlabel(row.x_label)
        axes.set_ylabel(row.y_label)
        axes.grid(axis="y")
        figure.legend(loc="outside upper left", ncols=2)
        said = "; ".join(
            f"{curve.name}: " + ", ".join(text.number(point.y) for point in curve.points)
            for curve in row.curves
        )
        return svg.render(figure, name, f"{row.claim}. {row.y_label} over {row.x_label}. {said}")


def _band(curve: Curve) -> tuple[list[float], list[float]] | None:
    low, high = ([getattr(point, side) for point in curve.points] for side in ("low", "high"))
    return None if None in low or None in high else (low, high)
