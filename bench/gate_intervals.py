"""Ways to bound a ratio from below, by simulation: why the policy takes order statistics of restarts.

`python -m bench gate-power --methods` prints it; docs/gates.md has the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bench import gate_power
from bench.baselines.fake_clock import CLOCKS
from bench.gate_policy import Array, Look, bounds, depths, log_ratio

ERROR = 0.005
RESTARTS = (12, 24)
SLOWDOWN = 0.05
MACHINES = ("jitter", "heavy tails", "layout", "rare layout", "placement")
RESAMPLES = 1000
_CHUNK = 50
Method = Callable[[Array, Array, np.random.Generator], Array]
"""(log ratios of restarts (gates, restarts), of pairs (gates, restarts × pairs), rng) -> lower bounds (gates,)."""


@dataclass(frozen=True)
class Coverage:
    """How often the lower bound of an unchanged head lies above 1 (nominal: `ERROR`), and that of a slower one."""

    machine: str
    restarts: int
    method: str
    gates: int
    errors: int
    caught: int


def order_statistics(restarts: Array, pairs: Array, rng: np.random.Generator) -> Array:
    count = restarts.shape[1]
    (depth,) = depths((count,), ERROR)
    return bounds(restarts, Look(count, depth, 0))[0]


def signed_rank(restarts: Array, pairs: Array, rng: np.random.Generator) -> Array:
    """The Walsh average that Wilcoxon's signed-rank test does not reject; wants symmetry."""
    count = restarts.shape[1]
    ranks = np.ones(1)  # chances of each sum of positive ranks, one rank after the other
    for rank in range(1, count + 1):
        ranks = 0.5 * (np.pad(ranks, (0, rank)) + np.pad(ranks, (rank, 0)))
    depth = int((np.cumsum(ranks) <= ERROR).sum())
    first, second = np.triu_indices(count)
    averages = (restarts[:, first] + restarts[:, second]) / 2
    return np.partition(averages, depth - 1, axis=1)[:, depth - 1]


def t_of_restarts(restarts: Array, pairs: Array, rng: np.random.Generator) -> Array:
    return _t(restarts)


def t_of_pairs(restarts: Array, pairs: Array, rng: np.random.Generator) -> Array:
    """What resampling pairs amounts to."""
    return _t(pairs)


def bootstrap(restarts: Array, pairs: Array, rng: np.random.Generator) -> Array:
    """Percentile bootstrap of the median over restarts."""
    count = restarts.shape[1]
    found = []
    for start in range(0, len(restarts), _CHUNK):
        some = restarts[start : start + _CHUNK]
        rows = rng.integers(count, size=(len(some), RESAMPLES * count))
        draws = np.take_along_axis(some, rows, axis=1).reshape(len(some), RESAMPLES, count)
        found.append(np.quantile(np.median(draws, axis=2), ERROR, axis=1))
    return np.concatenate(found)


METHODS: dict[str, Method] = {
    "order statistics of restarts": order_statistics,
    "signed rank of restarts": signed_rank,
    "t of restarts": t_of_restarts,
    "bootstrap of restarts": bootstrap,
    "t of pairs": t_of_pairs,
}


def compare(
    gates: int,
    seed: int,
    advance: Callable[[str], None] = lambda name: None,
    machines: Sequence[str] = MACHINES,
) -> Iterator[Coverage]:
    """Each method on each machine; `advance` is told the machine's name once for each count of restarts."""
    for name in machines:
        for count in RESTARTS:
            rng = np.random.default_rng([seed, count, *name.encode()])
            traces = gate_power.draw(CLOCKS[name], rng, gates, count)
            base, head = gate_power.paired(traces, 0.0)
            restarts = log_ratio(base, head)
            pairs = (np.log(head) - np.log(base)).reshape(gates, -1)
            for method, bound in METHODS.items():
                low = bound(restarts, pairs, rng)
                # A slow-down shifts all logs, and the bound with them.
                errors, caught = (int((low + shift > 0).sum()) for shift in (0.0, np.log1p(SLOWDOWN)))
                yield Coverage(name, count, method, gates, errors, caught)
            advance(name)


def _t(values: Array) -> NDArray[np.float64]:
    count = values.shape[1]
    half = stats.t.ppf(1 - ERROR, count - 1) * values.std(axis=1, ddof=1) / count**0.5
    return np.asarray(values.mean(axis=1) - half)
