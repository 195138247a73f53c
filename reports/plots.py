"""Metrics over latency and steps. References are horizontal bands: a score means nothing without truth and noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from reports import svg, text
from reports.axes import interval_bars, scale_x, scale_y
from reports.metrics import Metric, Point
from reports.rows import Row

LARGE, SMALL = (4.8, 3.5), (3.6, 2.7)
LARGE_BOX, SMALL_BOX = (0.11, 0.14, 0.71, 0.77), (0.12, 0.17, 0.6, 0.73)
"""Left, bottom, width, height of the axes; references are named on the right."""
MARKERS = "osD^vPX*"
SIGNS = dict(zip(MARKERS, "●■◆▲▼✚✖★", strict=True))
"""The markers as text, for legends."""
DIGIT = (5.0, 8.0)
"""Room of a digit of a label, width and height in points."""

Place = Callable[[Row], float | None]


class Label(NamedTuple):
    """A step count beside the point (x, y) of the data, `offset` points away from it."""

    text: str
    x: float
    y: float
    offset: tuple[float, float]
    colour: str


def against_latency(metric: Metric, name: str, colours: dict[str, int], large: bool) -> str:
    """`metric` over seconds from text to file; both intervals drawn, step counts written at the points."""
    return _plot(
        metric, name, colours, large, _latency, "seconds per batch, text to file, warm", annotate=True
    )


def against_steps(metric: Metric, name: str, colours: dict[str, int], large: bool) -> str | None:
    """`metric` over the step count. None where fewer than two step counts were measured."""
    if len({point.row.steps for point in metric.systems if point.row.steps}) < 2:
        return None
    return _plot(metric, name, colours, large, _steps, "denoising steps", annotate=False)


def _latency(row: Row) -> float | None:
    return row.latency.median if row.latency else None


def _steps(row: Row) -> float | None:
    return float(row.steps) if row.steps else None


def _plot(
    metric: Metric, name: str, colours: dict[str, int], large: bool, place: Place, label: str, annotate: bool
) -> str:
    with svg.style():
        figure = Figure(figsize=LARGE if large else SMALL)
        # A fixed box, so that panels align; a layout engine would also draw each figure twice.
        axes = figure.add_axes(LARGE_BOX if large else SMALL_BOX)
        entries = [(point, x) for point in metric.systems if (x := place(point.row)) is not None]
        labels: list[Label] = []
        for series in dict.fromkeys(point.row.series for point, _ in entries):
            line = [entry for entry in entries if entry[0].row.series == series]
            labels += _curve(axes, sorted(line, key=lambda entry: entry[1]), colours[series], annotate)
        if annotate:
            _real_time(axes, [point.row for point, _ in entries], named=large)
        scale_x(axes, [x for _, x in entries], steps=not annotate)
        scale_y(axes, metric)
        _write(axes, labels, figure.dpi)
        _references(axes, metric)
        axes.set_xlabel(label)
        unit = f" ({metric.first.unit})" if metric.first.unit else ""
        axes.set_title(f"{metric.title}{unit}", color=svg.INK)
        axes.grid(axis="y")
        alt = f"{metric.title} against {label}, {metric.direction}. " + "; ".join(
            f"{point.row.label}: {point.shown}" for point in (*metric.systems, *metric.references)
        )
        hovers = {f"point-{point.row.key}": _hover(metric, point) for point, _ in entries}
        return svg.render(figure, name, alt, hovers)


def _curve(axes: Axes, line: Sequence[tuple[Point, float]], index: int, annotate: bool) -> list[Label]:
    """Points of one series from left to right, each a link to its cell, with interval bars; returns their labels, which
    wait until the axes have their scales.
    """
    colour = svg.SERIES[index % len(svg.SERIES)]
    values = [point.value for point, _ in line]
    below = values[-1] > values[0]  # a rising curve passes above right of its points
    axes.plot([x for _, x in line], values, color=colour, linewidth=1.2, alpha=0.7)
    for point, x in line:
        interval_bars(
            axes, point, x, horizontal=annotate, color=colour, linewidth=1.6, solid_capstyle="butt", zorder=3
        )
        (marker,) = axes.plot(
            [x], [point.value], color=colour, marker=marker_of(index), markersize=6,
            markeredgecolor=svg.SURFACE, markeredgewidth=0.8, linestyle="none", zorder=4,
        )  # fmt: skip
        marker.set_gid(f"point-{point.row.key}")
        marker.set_url(f"#{point.row.key}")
    offset = (5.0, -10.0 if below else 4.0)
    steps = [(point.row.steps, x, point.value) for point, x in line if annotate and point.row.steps]
    return [Label(str(count), x, y, offset, colour) for count, x, y in steps]


def _write(axes: Axes, labels: Sequence[Label], dpi: float) -> None:
    """Step counts at their points, but those that would lie on one that is there already: hovering tells them."""
    taken: list[tuple[float, float, str]] = []
    for label in labels:
        pixels = axes.transData.transform((label.x, label.y))
        left, bottom = pixels * 72 / dpi + label.offset
        if any(
            abs(left - x) < DIGIT[0] * max(len(text), len(label.text)) and abs(bottom - y) < DIGIT[1]
            for x, y, text in taken
        ):
            continue
        taken.append((left, bottom, label.text))
        axes.annotate(
            label.text, (label.x, label.y), xytext=label.offset, textcoords="offset points", fontsize=8,
            color=label.colour, zorder=5,
        )  # fmt: skip


def marker_of(index: int) -> str:
    """Of a series: the ninth has the first one's colour, and so another shape."""
    return MARKERS[(index + index // len(svg.SERIES)) % len(MARKERS)]


def _hover(metric: Metric, point: Point) -> str:
    hover = f"{point.row.label}\n{metric.title} {point.shown} [{point.bounds or 'no interval'}], n = {point.score.n}"
    if (latency := point.row.latency) is None:
        return hover
    bounds = text.seconds_interval(latency.median, latency.low, latency.high)
    return f"{hover}\n{text.seconds(latency.median)} [{bounds or 'no interval'}], n = {latency.n}"


def _real_time(axes: Axes, rows: Sequence[Row], named: bool) -> None:
    """A vertical line at the playing time of a batch, where all cells make the same length of video."""
    lengths = [seconds for row in rows if (seconds := row.video_seconds) is not None]
    if not lengths or max(lengths) > 1.05 * min(lengths):
        return
    length = float(np.median(lengths))
    axes.axvline(length, color=svg.MUTED, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
    if named:
        axes.annotate(
            "real time", (length, 1), xycoords=blended_transform_factory(axes.transData, axes.transAxes),
            xytext=(0, 3), textcoords="offset points", ha="center", fontsize=7.5, color=svg.MUTED,
        )  # fmt: skip


def _references(axes: Axes, metric: Metric) -> None:
    """A dashed line and a band for each reference; one that is off the scale is named at the edge."""
    low, high = axes.get_ylim()
    labels = []
    for point in metric.references:
        score, name = point.score, f"{metric.reference_name(point)} {point.shown}"
        if low <= point.value <= high:
            if score.low is not None and score.high is not None:
                bottom, top = max(score.low, low), min(score.high, high)
                axes.axhspan(bottom, top, color=svg.BAND, alpha=0.35, linewidth=0)
            axes.axhline(point.value, color=svg.MUTED, linewidth=0.8, linestyle=(0, (5, 3)), zorder=1)
            labels.append((point.value, name))
        else:
            above = point.value > high
            labels.append((high if above else low, f"{name} {'↑' if above else '↓'}"))
    _label_right(axes, labels)


def _label_right(axes: Axes, labels: Sequence[tuple[float, str]]) -> None:
    """Labels right of the axes, pushed apart so that none overlaps its neighbour."""
    least = 10.5 / (axes.bbox.height * 72 / axes.figure.dpi)
    forward = axes.transScale.transform
    low, high = (forward((1, end))[1] for end in axes.get_ylim())
    below = -1.0
    for value, label in sorted(labels):
        height = (forward((1, value))[1] - low) / (high - low)
        below = max(height, below + least)
        axes.text(1.01, below, label, transform=axes.transAxes, va="center", fontsize=7.5, color=svg.MUTED)
