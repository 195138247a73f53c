"""The front of quality, time and memory: dots that grow with memory, numbered where no other beats them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from matplotlib.figure import Figure

from reports import svg, text
from reports.axes import interval_bars, scale_x, scale_y
from reports.metrics import Metric
from reports.settings import Setting

SIZE, BOX = (9.6, 3.6), (0.07, 0.14, 0.9, 0.76)
AREA = (20.0, 160.0)
"""Of a dot, in square points, from the smallest memory to the largest."""


def draw(metric: Metric, found: Sequence[Setting], best: Sequence[Setting], name: str) -> str:
    """Quality over seconds a clip; `best` are numbered from 1, and joined where memory left aside none beats them."""
    kinds = Counter(one.peak.kind for one in found if one.peak)
    common = max(kinds, key=lambda kind: kinds[kind], default=None)
    sizes = [one.peak.bytes for one in found if one.peak and one.peak.kind == common]
    least, most = min(sizes, default=0), max(sizes, default=1)

    def area(one: Setting) -> float:
        size = one.peak.bytes if one.peak and one.peak.kind == common else least  # of another kind: no size
        share = (size - least) / ((most - least) or 1)
        return AREA[0] + share * (AREA[1] - AREA[0])

    with svg.style():
        figure = Figure(figsize=SIZE)
        axes = figure.add_axes(BOX)
        hovers = {}
        joined = ahead(best)
        axes.plot(
            [one.seconds for one in joined], [one.point.value for one in joined], color=svg.SERIES[0], linewidth=1.2,
            alpha=0.6,
        )  # fmt: skip
        for one in found:
            colour = svg.SERIES[0] if one in best else svg.MUTED
            dot = axes.scatter(
                [one.seconds], [one.point.value], s=area(one), color=colour, edgecolors=svg.SURFACE, zorder=3
            )
            interval_bars(
                axes, one.point, one.seconds, horizontal=True, color=colour, linewidth=1.2, alpha=0.6
            )
            gid = f"front-{one.row.key}"
            dot.set_gid(gid)
            dot.set_urls([f"#{one.row.key}"])
            hovers[gid] = hover(metric, one)
            if one in best:
                axes.annotate(
                    str(best.index(one) + 1), (one.seconds, one.point.value), xytext=(0, 7),
                    textcoords="offset points", ha="center", fontsize=8, color=svg.INK, zorder=4,
                )  # fmt: skip
        scale_x(axes, [one.seconds for one in found], steps=False)
        scale_y(axes, metric)
        axes.set_title(f"{metric.title}, {metric.direction}; dots grow with peak memory", color=svg.INK)
        axes.set_xlabel("seconds a clip, text to file, warm")
        axes.grid(axis="y")
        alt = f"{metric.title} over seconds a clip. No setting beats: " + "; ".join(
            hover(metric, one).replace("\n", ", ") for one in best
        )
        return svg.render(figure, name, alt, hovers)


def ahead(best: Sequence[Setting]) -> list[Setting]:
    """Of settings that come fastest first, each that is better than all before it."""
    return [
        one
        for place, one in enumerate(best)
        if all(one.point.cost < other.point.cost for other in best[:place])
    ]


def hover(metric: Metric, one: Setting) -> str:
    """What a dot stands for."""
    memory = f"{text.size(one.peak.bytes)} {one.peak.kind}" if one.peak else "memory not measurable"
    return (
        f"{one.row.label}\n{metric.title} {one.point.shown} [{one.point.bounds or 'no interval'}]\n"
        f"{text.seconds(one.seconds)} a clip, {memory}"
    )
