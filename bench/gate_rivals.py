"""Rules that other tools decide by, on the same machine time as ours: for the table of `bench gate-power`.

Each tool runs as it does by default: base first, then head, a process or two each. So it gets the blocks of our longest
gate, in its own order: the first half for base, the second for head. docs/gates.md cites each rule.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Rule = Callable[[Array, Array, float], NDArray[np.bool_]]
"""(machine (gates, blocks), levels (gates, restarts, 2), logs both; slow-down) -> which gates fail (gates,)."""

MEAN_LIMIT = 1.05
ASV_FACTOR, ASV_P = 1.1, 0.002
ROLLING_RUNS, ROLLING_LIMIT = 10, 1.08


def pytest_benchmark(machine: Array, levels: Array, slowdown: float) -> NDArray[np.bool_]:
    """`--benchmark-compare-fail=mean:5%`: the mean of one process against that of another."""
    base, head = _runs(machine, levels, 2, slowdown)
    return head.mean(axis=1) > MEAN_LIMIT * base.mean(axis=1)


def asv(machine: Array, levels: Array, slowdown: float) -> NDArray[np.bool_]:
    """`asv compare`: medians of two processes each, a factor of 1.1 apart, and Mann-Whitney's U with p < 0.002."""
    runs = _runs(machine, levels, 4, slowdown, heads=2)
    base, head = np.hstack(runs[:2]), np.hstack(runs[2:])
    p = stats.mannwhitneyu(base, head, axis=1, method="asymptotic").pvalue
    return (np.median(head, axis=1) > ASV_FACTOR * np.median(base, axis=1)) & (p < ASV_P)


def rolling_median(machine: Array, levels: Array, slowdown: float) -> NDArray[np.bool_]:
    """A stored history: the median of head's process against the median of those of the ten runs before, ± 8 %."""
    *history, head = (np.median(run, axis=1) for run in _runs(machine, levels, ROLLING_RUNS + 1, slowdown))
    return head > ROLLING_LIMIT * np.median(history, axis=0)


RIVALS: dict[str, Rule] = {
    "pytest-benchmark mean:5%": pytest_benchmark,
    "asv 1.1, p < 0.002": asv,
    "rolling median ± 8 %": rolling_median,
}


def _runs(machine: Array, levels: Array, count: int, slowdown: float, heads: int = 1) -> list[Array]:
    """Seconds of `count` processes one after the other, the last `heads` of them head's: (gates, blocks / count)."""
    parts = np.split(machine[:, : machine.shape[1] // count * count], count, axis=1)
    bases = count - heads
    base = [np.exp(part + levels[:, [place], 0]) for place, part in enumerate(parts[:bases])]
    head = [np.exp(part + levels[:, [place], 1]) for place, part in enumerate(parts[bases:])]
    return base + [(1 + slowdown) * run for run in head]
