"""Axes that fit what is drawn on them: scales, limits, ticks, and the bars of intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from reports.metrics import Metric, Point

LOG_RATIO = 10.0
"""An axis is logarithmic where its largest value is more than this many times its smallest."""


def interval_bars(axes: Axes, point: Point, x: float, horizontal: bool, **style: Any) -> None:
    """The 95 % intervals of a score and, where `horizontal`, of the seconds `x`, which a batch takes or a clip."""
    score, latency = point.score, point.row.latency
    if score.low is not None and score.high is not None:
        axes.plot([x, x], [score.low, score.high], **style)
    if horizontal and latency and latency.low is not None and latency.high is not None:
        share = x / latency.median
        axes.plot([latency.low * share, latency.high * share], [point.value] * 2, **style)


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
