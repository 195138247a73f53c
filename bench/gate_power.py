"""`python -m bench gate-power`: how often gates are wrong, on simulated machines whose truth is known.

Every rule decides on the same machine time: the blocks of our longest gate, and processes with the same levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bench.baselines.fake_clock import CLOCKS, Clock
from bench.gate_policy import Array, Policy, bounds, judge, log_ratio, looks
from bench.gate_rivals import RIVALS

OURS = "restarts"
PAIRS = 8
"""Blocks of base, and of head, in a restart: those of every cell of gates.yaml."""
CELLS = 3
"""How many cells gates.yaml has, among which its error is divided. What is simulated is one of them."""
SLOWDOWNS = (0.0, 0.02, 0.05, 0.10)
CHUNK = 500
"""Gates simulated at once: 50 MB."""


class Traces(NamedTuple):
    """Logs of what the machine and the processes do to a duration."""

    machine: Array  # (gates, restarts, 2 PAIRS), in the order of time
    levels: Array  # (gates, restarts, 2), base and head


class Verdicts(NamedTuple):
    """What our policy says. All (gates,); `restarts` is how many it took."""

    fails: NDArray[np.bool_]
    passes: NDArray[np.bool_]
    restarts: NDArray[np.int64]


@dataclass(frozen=True)
class Tally:
    """Of one rule with one clock at one slow-down. `passes` and `restarts` are summed, and ours alone."""

    clock: str
    rule: str
    slowdown: float
    gates: int
    fails: int
    passes: int = 0
    restarts: int = 0

    @property
    def rate(self) -> float:
        """Share of gates that failed: false alarms without a slow-down, power with one."""
        return self.fails / self.gates

    @property
    def upper(self) -> float:
        """Upper 95 % bound of the rate (Clopper & Pearson 1934, one-sided)."""
        interval = stats.binomtest(self.fails, self.gates, alternative="less").proportion_ci(0.95, "exact")
        return float(interval.high)


def draw(clock: Clock, rng: np.random.Generator, gates: int, restarts: int) -> Traces:
    machine = clock.machine_logs(rng, gates, restarts * 2 * PAIRS).reshape(gates, restarts, 2 * PAIRS)
    return Traces(machine, clock.level_logs(rng, gates, restarts * 2).reshape(gates, restarts, 2))


def paired(traces: Traces, slowdown: float) -> tuple[Array, Array]:
    """Seconds of the blocks of base and of head, (gates, restarts, PAIRS); a true block takes 1.

    Order is ABBA… in even restarts and BAAB… in odd ones.
    """
    restarts = traces.machine.shape[1]
    late = np.add.outer(np.arange(restarts), np.arange(PAIRS)) % 2  # whether base is the second of its pair
    pairs = traces.machine.reshape(*traces.machine.shape[:2], PAIRS, 2)
    base = np.where(late, pairs[..., 1], pairs[..., 0]) + traces.levels[..., :1]
    head = np.where(late, pairs[..., 0], pairs[..., 1]) + traces.levels[..., 1:]
    return np.exp(base), (1 + slowdown) * np.exp(head)


def decisions(base: Array, head: Array, policy: Policy, cells: int = 1) -> Verdicts:
    """`gate_policy.decide` for many gates at once, one of `cells` cells each; (gates, restarts, pairs)."""
    ratios, levels = log_ratio(base, head), np.median(base, axis=-1)
    gates = len(ratios)
    verdicts = Verdicts(np.zeros(gates, bool), np.zeros(gates, bool), np.full(gates, policy.restarts[-1]))
    open_ = np.ones(gates, bool)
    for look in looks(policy, cells):
        seen = np.s_[:, : look.restarts]
        fails, passes = judge(*bounds(ratios[seen], look), np.median(levels[seen], axis=1), policy)
        verdicts.fails[open_ & fails] = True
        verdicts.passes[open_ & passes] = True
        verdicts.restarts[open_ & (fails | passes)] = look.restarts
        open_ &= ~(fails | passes)
    return verdicts


def simulate(
    gates: int,
    seed: int,
    policy: Policy,
    advance: Callable[[str], None] = lambda name: None,
    clocks: Mapping[str, Clock] = CLOCKS,
) -> Iterator[Tally]:
    """Every rule with every clock at every slow-down; the same gates and seed give the same numbers.

    `advance` is told the name of the clock after each chunk of gates, `chunks(gates)` times a clock.
    """
    for name, clock in clocks.items():
        sums: dict[tuple[str, float], NDArray[np.int64]] = {}
        for chunk in range(chunks(gates)):
            rng = np.random.default_rng([seed, chunk, *name.encode()])
            traces = draw(clock, rng, CHUNK, policy.restarts[-1])
            traces = Traces(*(part[: gates - chunk * CHUNK] for part in traces))
            for slowdown in SLOWDOWNS:
                for rule, counts in _counts(traces, slowdown, policy).items():
                    sums[rule, slowdown] = sums.get((rule, slowdown), 0) + counts
            advance(name)
        for (rule, slowdown), counts in sums.items():
            yield Tally(name, rule, slowdown, gates, *(int(count) for count in counts))


def chunks(gates: int) -> int:
    return -(-gates // CHUNK)


def _counts(traces: Traces, slowdown: float, policy: Policy) -> dict[str, NDArray[np.int64]]:
    """By rule: how many gates fail, how many pass, and the restarts of all."""
    ours = decisions(*paired(traces, slowdown), policy, CELLS)
    counts = {OURS: np.array([ours.fails.sum(), ours.passes.sum(), ours.restarts.sum()])}
    machine = traces.machine.reshape(len(traces.machine), -1)
    for rule, fails in RIVALS.items():
        counts[rule] = np.array([fails(machine, traces.levels, slowdown).sum(), 0, 0])
    return counts
