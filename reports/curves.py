"""One figure a knob: cells that differ in it alone, quality and time against its values, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from bench.records import Knob
from reports import svg, text
from reports.metrics import Metric, Point
from reports.rows import SECONDS, STEPS, Row, knob_text

SIZE = (3.6, 3.6)
IGNORED = (STEPS, SECONDS, "precision", "outcome", "stage")
"""What other figures show, what the machine decides, and what scripts a failure."""
Line = tuple[str, list[tuple[str, Point]]]


@dataclass(frozen=True)
class Curve:
    """`lines`: what the cells of a line share, and its points in the order of the knob's values."""

    knob: str
    metric: Metric
    lines: tuple[Line, ...]

    @property
    def values(self) -> list[str]:
        """Every value on the axis, numbers by size, "none" before all."""
        return sorted({value for _, line in self.lines for value, _ in line}, key=_order)


def curves(metrics: Sequence[Metric]) -> list[Curve]:
    """The first metric decides which cells a knob's curve has; those that lack it have the first one they carry."""
    found: dict[str, Curve] = {}
    for metric in metrics:
        points = {point.row.key: point for point in metric.systems}
        for knob, groups in _groups([point.row for point in points.values()]).items():
            if knob not in found:
                lines = tuple(
                    (name, [(_value(row, knob), points[row.key]) for row in rows]) for name, rows in groups
                )
                found[knob] = Curve(knob, metric, lines)
    return list(found.values())


def _groups(rows: Sequence[Row]) -> dict[str, list[tuple[str, list[Row]]]]:
    """Knob -> lines of rows of one run and the same prompts that differ in that knob and in no other, named by the
    system of most rows.
    """
    names = dict.fromkeys(name for row in rows for name in row.knobs if name not in IGNORED)
    found = {}
    for knob in names:
        alike: dict[str, list[Row]] = {}
        for row in rows:
            if knob in row.knobs:
                rest = {name: value for name, value in row.knobs.items() if name != knob}
                made_by = row.record.weights_sha256 if row.record else None
                key = repr((row.run.path, sorted(rest.items()), made_by, row.work))
                alike.setdefault(key, []).append(row)
        lines = [
            (_shared(group), sorted(group, key=lambda row: _order(_value(row, knob))))
            for group in alike.values()
            if len({_value(row, knob) for row in group}) > 1
        ]
        if lines:
            found[knob] = lines
    return found


def _shared(rows: Sequence[Row]) -> str:
    systems = [row.system for row in rows]
    name = max(dict.fromkeys(systems), key=systems.count)
    steps, tag = rows[0].steps, rows[0].run.tag
    return (f"{name}, {knob_text(STEPS, steps)}" if steps else name) + (f" ({tag})" if tag else "")


def _value(row: Row, knob: str) -> str:
    value: Knob = row.knobs[knob]
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _order(value: str) -> tuple[int, float, str]:
    try:
        return (1, float(value), "")
    except ValueError:
        return (0 if value in ("none", "None", "False") else 2, 0.0, value)


def draw(curve: Curve, name: str) -> str:
    """Quality above, seconds a clip below, over the values at even distances."""
    places = {value: index for index, value in enumerate(curve.values)}
    with svg.style():
        figure = Figure(figsize=SIZE, layout="constrained")
        quality, time = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        hovers = {}
        for index, (label, line) in enumerate(curve.lines):
            colour = svg.SERIES[index % len(svg.SERIES)]
            xs = [places[value] for value, _ in line]
            quality.plot(xs, [point.value for _, point in line], color=colour, linewidth=1.2, label=label)
            time.plot(xs, [point.seconds for _, point in line], color=colour, marker="o", markersize=4)
            for x, (value, point) in zip(xs, line, strict=True):
                (marker,) = quality.plot([x], [point.value], color=colour, marker="o", markersize=5)
                gid = f"knob-{index}-{point.row.key}"
                marker.set_gid(gid)
                marker.set_url(f"#{point.row.key}")
                hovers[gid] = (
                    f"{point.row.label}\n{curve.knob} {value}: {curve.metric.title} {point.shown} "
                    f"[{point.bounds or 'no interval'}], {text.seconds(point.seconds)} a clip"
                )
                if point.score.low is not None and point.score.high is not None:
                    quality.plot([x, x], [point.score.low, point.score.high], color=colour, linewidth=1.6)
                latency = point.row.latency
                if latency and latency.low is not None and latency.high is not None:
                    scale = point.seconds / latency.median
                    time.plot(
                        [x, x], [latency.low * scale, latency.high * scale], color=colour, linewidth=1.6
                    )
        quality.set_title(f"{curve.metric.title} by {curve.knob.replace('_', ' ')}", color=svg.INK)
        time.set_title("seconds a clip", color=svg.INK)
        time.set_ylim(bottom=0)
        time.set_xticks(list(places.values()), list(places), rotation=30 if len("".join(places)) > 30 else 0)
        for axes in (quality, time):
            axes.grid(axis="y")
        if len(curve.lines) > 1:
            figure.legend(loc="outside lower left", fontsize=7)
        alt = f"{curve.metric.title} by {curve.knob}. " + "; ".join(
            f"{value}: {point.shown}" for _, line in curve.lines for value, point in line
        )
        return svg.render(figure, name, alt, hovers)
