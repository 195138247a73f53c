"""Scripted clocks: how long the same block takes on machines that jitter, drift, switch and steal.

One table for the fake system and for `bench.gate_power`; docs/gates.md lists it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.errors import SuiteError, nearest

Array = NDArray[np.float64]
Rng = np.random.Generator

Part = Callable[[Rng, int, int], Array]
"""(rng, rows, blocks or processes) -> logs of the factors that multiply the true duration, (rows, …)."""

JITTER = 0.03
DRIFT = 0.05
TURBO = 0.10


@dataclass(frozen=True)
class Clock:
    """The sum of `machine`, block by block in the order of time, and `level`, process by process."""

    about: str
    machine: tuple[Part, ...]
    level: tuple[Part, ...] = ()

    def machine_logs(self, rng: Rng, rows: int, blocks: int) -> Array:
        return _total(self.machine, rng, rows, blocks)

    def level_logs(self, rng: Rng, rows: int, processes: int) -> Array:
        return _total(self.level, rng, rows, processes)


def _total(parts: tuple[Part, ...], rng: Rng, rows: int, columns: int) -> Array:
    return sum((part(rng, rows, columns) for part in parts), np.zeros((rows, columns)))


def jitter(rng: Rng, rows: int, blocks: int) -> Array:
    """White noise of 3 %."""
    return JITTER * rng.standard_normal((rows, blocks))


def linear(rng: Rng, rows: int, blocks: int) -> Array:
    """Up or down by 5 % from the first block to the last."""
    return rng.choice([-DRIFT, DRIFT], (rows, 1)) * np.linspace(-0.5, 0.5, blocks)


def sine(rng: Rng, rows: int, blocks: int) -> Array:
    """5 % to either side, half a period to four periods long."""
    phase, periods = rng.uniform(0, 2 * np.pi, (rows, 1)), rng.uniform(0.5, 4, (rows, 1))
    return DRIFT * np.sin(phase + 2 * np.pi * periods * np.linspace(0, 1, blocks))


def walk(rng: Rng, rows: int, blocks: int) -> Array:
    """A random walk that ends 5 % (one standard deviation) from its start."""
    return DRIFT / blocks**0.5 * rng.standard_normal((rows, blocks)).cumsum(axis=1)


def autocorrelated(rng: Rng, rows: int, blocks: int) -> Array:
    """3 % in all, of which each block hands 0.9 to the next."""
    noise = JITTER * rng.standard_normal((rows, blocks))
    for block in range(1, blocks):
        noise[:, block] = 0.9 * noise[:, block - 1] + (1 - 0.9**2) ** 0.5 * noise[:, block]
    return noise


def heavy_tails(rng: Rng, rows: int, blocks: int) -> Array:
    """Student's t with 2 degrees of freedom, whose variance is infinite; quartiles of 2 %, at most a factor of e."""
    return np.clip(0.025 * rng.standard_t(2, (rows, blocks)), -1, 1)


def bursts(rng: Rng, rows: int, blocks: int) -> Array:
    """Foreign load: one block in fifty starts a burst of six that take 30 % longer."""
    starts = rng.random((rows, blocks)) < 0.02
    inside = np.zeros((rows, blocks), bool)
    for later in range(min(6, blocks)):
        inside[:, later:] |= starts[:, : blocks - later]
    return np.log(1.3) * inside


def steal(rng: Rng, rows: int, blocks: int) -> Array:
    """The hypervisor interrupts one block in twenty, for half of a block's time on average."""
    return np.log1p((rng.random((rows, blocks)) < 0.05) * rng.exponential(0.5, (rows, blocks)))


def turbo(dwell: float) -> Part:
    """Two clocks 10 % apart; the machine stays on one for `dwell` blocks on average."""

    def part(rng: Rng, rows: int, blocks: int) -> Array:
        switches = rng.random((rows, blocks)) < 1 / dwell
        return np.log1p(TURBO) * ((rng.integers(2, size=(rows, 1)) + switches.cumsum(axis=1)) % 2)

    return part


def layout(rng: Rng, rows: int, processes: int) -> Array:
    """Where the loader puts code and heap: 1.5 % (one standard deviation) for the life of a process."""
    return 0.015 * rng.standard_normal((rows, processes))


def lucky(rng: Rng, rows: int, processes: int) -> Array:
    """One process in twenty is 5 % faster throughout."""
    return np.log(0.95) * (rng.random((rows, processes)) < 0.05)


def placement(rng: Rng, rows: int, processes: int) -> Array:
    """Half of the processes land where everything takes 5 % longer: a shared core, a far memory."""
    return np.log(1.05) * rng.integers(2, size=(rows, processes))


def persistent(rng: Rng, rows: int, processes: int) -> Array:
    """What all even processes share, and all odd ones (the length of a path, say): 1 % each, restart after restart."""
    return np.resize(0.01 * rng.standard_normal((2, rows)), (processes, rows)).T


CLOCKS: dict[str, Clock] = {
    "steady": Clock("every block takes its time", ()),
    "jitter": Clock("white noise of 3 %", (jitter,)),
    "linear drift": Clock("3 % jitter, drift of 5 % along a line", (jitter, linear)),
    "sine drift": Clock("3 % jitter, drift of ± 5 % along a sine", (jitter, sine)),
    "random walk": Clock("3 % jitter, drift of 5 % as a random walk", (jitter, walk)),
    "autocorrelated": Clock("noise of 3 % that remembers 0.9 of itself", (autocorrelated,)),
    "heavy tails": Clock("Student's t with 2 degrees of freedom", (heavy_tails,)),
    "bursts": Clock("3 % jitter, bursts of six blocks 30 % longer", (jitter, bursts)),
    "steal": Clock("3 % jitter, one block in twenty interrupted", (jitter, steal)),
    "turbo within": Clock("3 % jitter, clocks 10 % apart, a switch every 8 blocks", (jitter, turbo(8))),
    "turbo between": Clock("3 % jitter, clocks 10 % apart, a switch every 48 blocks", (jitter, turbo(48))),
    "layout": Clock("3 % jitter, processes differ by 1.5 %", (jitter,), (layout,)),
    "rare layout": Clock("the same, one process in twenty 5 % faster", (jitter,), (layout, lucky)),
    "placement": Clock("3 % jitter, half of the processes 5 % slower", (jitter,), (placement,)),
    "persistent": Clock("3 % jitter, base and head each off by 1 % for good", (jitter,), (persistent,)),
    "everything": Clock(
        "jitter, walk, steal, bursts, turbo; rare layout",
        (jitter, walk, steal, bursts, turbo(16)),
        (layout, lucky),
    ),
}
"""By name, from the kindest to the worst."""


def find(name: str) -> Clock:
    """Raises SuiteError naming the nearest clock."""
    if name not in CLOCKS:
        raise SuiteError(f"unknown clock {name!r}{nearest(name, CLOCKS)}")
    return CLOCKS[name]


def factors(name: str, seed: int, process: int, blocks: int) -> Array:
    """What multiplies each block of process number `process`; all processes of a seed share the machine. (blocks,)"""
    clock = find(name)
    machine = clock.machine_logs(np.random.default_rng(seed), 1, blocks)[0]
    own = clock.level_logs(np.random.default_rng([seed, process]), 1, 1)[0, 0]
    return np.exp(machine + own)
