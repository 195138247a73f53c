"""Where the time of a batch goes: stages as stacked bars, and what lies between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from bench.records import END_TO_END, WINDOW, Timing
from reports import svg, text
from reports.rows import Row

REST = "between stages"


def draw(rows: Sequence[Row], name: str) -> str | None:
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
