"""The claims table: what the paper says, what was asked here, what came out. Written by `bench claims`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.figure import Figure
from pydantic import ValidationError

from bench.records import CLAIMS, PUBLISHED_CLAIMS, ClaimRow, ClaimsTable, Curve, StepRow
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
class Claims:
    """All claims, as the last `bench claims` in the results folder left them, or as they are committed (`published`).

    `scale`: quick or full. `steps`: what each number of steps makes, asked as `steps_protocol` says; `scores` are
    those that a row of it has.
    """

    scale: str
    published: bool
    lines: tuple[Line, ...]
    steps: tuple[StepRow, ...]
    steps_protocol: str

    @property
    def scores(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for row in self.steps for name in row.scores))


def claims(runs: Sequence[Run]) -> tuple[Claims | None, list[str]]:
    """The table beside the first run that has one, and what went wrong with others.

    Else the published one, where a run has asked the teacher that it is of.
    """
    problems = []
    beside = dict.fromkeys(run.path.resolve().parent / CLAIMS for run in runs)
    for path in (*beside, PUBLISHED_CLAIMS):
        published = path == PUBLISHED_CLAIMS
        if not path.exists():
            continue
        try:
            found = ClaimsTable.model_validate_json(path.read_bytes())
        except (ValidationError, OSError) as error:
            problems.append(f"The claims table {path.name} cannot be read: {error}")
            continue
        if published and not _asked(found.teacher, runs):
            continue
        lines = tuple(_line(row, f"claim-{row.id}") for row in found.rows)
        return Claims(found.scale, published, lines, found.steps, found.steps_protocol), problems
    return None, problems


def _asked(teacher: str, runs: Sequence[Run]) -> bool:
    hashes = (record.weights_sha256 or "" for run in runs for record in run.records)
    return bool(teacher) and any(known.startswith(teacher) for known in hashes)


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
