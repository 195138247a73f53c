"""The figures of the report. References are horizontal bands: a score means nothing without truth and noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
from matplotlib.transforms import blended_transform_factory

from bench.records import END_TO_END, WINDOW, Timing
from reports import svg, text
from reports.metrics import Metric, Point
from reports.rows import Row

LARGE, SMALL = (4.8, 3.5), (3.6, 2.7)
LARGE_BOX, SMALL_BOX = (0.11, 0.14, 0.71, 0.77), (0.12, 0.17, 0.6, 0.73)
"""Left, bottom, width, height of the axes; references are named on the right."""
MARKERS = "osD^vPX*"
SIGNS = dict(zip(MARKERS, "●■◆▲▼✚✖★", strict=True))
"""The markers as text, for legends."""
LOG_RATIO = 10.0
"""An axis is logarithmic where its largest value is more than this many times its smallest."""

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


def stages(rows: Sequence[Row], name: str) -> str | None:
    """Stacked bars: where the time of one batch goes, by stage. None where no cell has stages besides the whole."""
    # A minute would leave clips no width; its pace has a table of its own.
    timed = [row for row in rows if row.ok and row.record and len(row.record.stages) > 1 and row.long is None]
    if not timed:
        return None
    parts = [breakdown(row) for row in timed]
    names = list(dict.fromkeys(stage for part in parts for stage in part))
    with svg.style():
        figure = Figure(figsize=(9.6, 0.8 + 0.25 * len(timed)), layout="constrained")
        axes = figure.subplots()
        left = np.zeros(len(timed))
        hovers = {}
        for index, stage in enumerate(names):
            widths = np.array([part.get(stage, 0.0) for part in parts])
            rest = stage == REST
            bars = axes.barh(
                np.arange(len(timed)), widths, left=left, height=0.62, label=stage,
                color=svg.BAND if rest else svg.SERIES[index % len(svg.SERIES)],
                edgecolor=svg.SURFACE, linewidth=0.8,
            )  # fmt: skip
            for row, bar, width in zip(timed, bars, widths, strict=True):
                bar.set_gid(f"bar-{index}-{row.key}")
                if row.untrained:
                    bar.set_hatch("////")
                hovers[f"bar-{index}-{row.key}"] = (
                    f"{row.label}, {stage}: {text.seconds(width)}" if width else stage
                )
            left += widths
        for position, row in enumerate(timed):
            if row.latency:
                axes.annotate(
                    text.seconds(row.latency.median), (max(left[position], row.latency.median), position),
                    xytext=(5, 0), textcoords="offset points", va="center", color=svg.INK,
                )  # fmt: skip
        axes.set_yticks(np.arange(len(timed)), [row.label for row in timed])
        axes.tick_params(axis="y", length=0, labelcolor=svg.INK)
        axes.invert_yaxis()
        axes.set_xlim(0, left.max() * 1.1)
        axes.set_xlabel("seconds per batch: median of each stage times its passes")
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        figure.legend(loc="outside upper left", ncols=5, handlelength=1, handleheight=1, columnspacing=1.4)
        alt = "Stacked bars of latency by stage. " + "; ".join(
            f"{row.label}: {text.seconds(row.latency.median)}" for row in timed if row.latency
        )
        return svg.render(figure, name, alt, hovers)


REST = "between stages"


def breakdown(row: Row) -> dict[str, float]:
    """Seconds a batch spends in each stage, and what end to end has beyond their sum. Empty without a record.

    A stage that is passed many times a batch (each denoising step) counts as its median times its passes.
    """
    whole = row.latency
    if row.record is None or whole is None:
        return {}
    parts = {
        stage: timing.median * passes(timing, whole)
        for stage, timing in row.record.stages.items()
        if stage not in (END_TO_END, WINDOW)  # these are made of the others
    }
    rest = whole.median - sum(parts.values())
    return {**parts, REST: rest} if rest > 0 else parts


def passes(stage: Timing, whole: Timing) -> float:
    """How often a batch goes through `stage`, given the timing of the whole batch."""
    return stage.n / whole.n


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
        _interval_bars(axes, point, x, colour, horizontal=annotate)
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


def _interval_bars(axes: Axes, point: Point, x: float, colour: str, horizontal: bool) -> None:
    score, latency = point.score, point.row.latency
    if score.low is not None and score.high is not None:
        axes.plot(
            [x, x], [score.low, score.high], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=3
        )
    if horizontal and latency and latency.low is not None and latency.high is not None:
        span = [latency.low, latency.high]
        axes.plot(span, [point.value] * 2, color=colour, linewidth=1.6, solid_capstyle="butt", zorder=3)


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


def scale_x(axes: Axes, values: Sequence[float], steps: bool) -> None:
    """Logarithmic over large ratios; steps at their own numbers."""
    if steps:
        ticks = sorted(set(values))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    elif values and max(values) > 3 * min(values):
        axes.set_xscale("log")
        _plain_log(axes.xaxis)


def _plain_log(axis: object) -> None:
    """Ticks at 1, 2, 5 times powers of ten, written as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))  # type: ignore[attr-defined]
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # type: ignore[attr-defined]
    axis.set_minor_formatter(NullFormatter())  # type: ignore[attr-defined]


def scale_y(axes: Axes, metric: Metric) -> None:
    """Limits and scale. Logarithmic over large ratios, linear near and below zero: a debiased distance may be
    negative. On a linear axis a reference far off the systems' range does not count.
    """
    ends = [end for p in metric.systems for end in (p.value, p.score.low, p.score.high) if end is not None]
    levels = [point.value for point in metric.references]
    everything = ends + levels
    positive = [value for value in everything if value > 0]
    logarithmic = metric.first.better == "lower" and positive and max(positive) > LOG_RATIO * min(positive)
    if logarithmic and min(everything) > 0:
        axes.set_yscale("log")
        _plain_log(axes.yaxis)
        low, high = min(everything), max(everything)
    elif logarithmic and (linear := _noise_level(metric, everything)) * LOG_RATIO < max(positive):
        axes.set_yscale("symlog", linthresh=linear, linscale=0.5)
        axes.set_ylabel(f"logarithmic, linear below {linear:.2g}", fontsize=7)
        axes.yaxis.set_major_locator(FixedLocator([0.0, *_one_two_five(linear, max(positive))]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        low, high = min(everything), max(everything)
    else:
        span = max(ends) - min(ends) or abs(ends[0]) or 1.0
        near = ends + [level for level in levels if min(ends) - 4 * span <= level <= max(ends) + 4 * span]
        low, high = min(near), max(near)
    _set_limits(axes, low, high)


def _noise_level(metric: Metric, everything: Sequence[float]) -> float:
    """Below this a logarithm would show noise: the depth to which values fall under zero, or the least score."""
    scores = [point.value for point in metric.systems if point.value > 0]
    return max(-min(everything), min(scores, default=0.0)) or math.inf


def _set_limits(axes: Axes, low: float, high: float) -> None:
    """Limits a little wider than the values, by the same length on the page at both ends."""
    transform = axes.yaxis.get_transform()
    bottom, top = transform.transform([low, high])
    margin = 0.07 * (top - bottom) or 0.5
    axes.set_ylim(*transform.inverted().transform([bottom - margin, top + margin]))


def _one_two_five(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    inside = [tick for tick in ticks if low <= tick <= high]
    return inside[:: math.ceil(len(inside) / 9)] if len(inside) > 9 else inside


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
