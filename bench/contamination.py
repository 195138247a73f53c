"""What else the machine did during a timed sample, and whether that spoils it.

A spoilt sample is marked and replaced, up to a stated number of samples; it is never averaged in unseen.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from bench.nvml import Device
from bench.records import Contamination

STEAL = 0.02
"""Share of the cores' time that the hypervisor may give to others: as much as medians here differ anyway."""
PRESSURE = 0.15
"""Share of the time in which some task waited for a core. On two cores a lab clip alone made it 0.06 at most, beside
two busy processes 0.57 to 0.93."""
SWITCHES = 200.0
"""Times a second that each thread may be made to leave its core, where nobody counts waiting. Threads of one process
that wake each other do so 16 to 140 times on a quiet machine, and 56 to 180 times beside two busy processes."""
FOREIGN = 0.10
"""Share of the machine's cores that other processes may use: they share caches, memory and the clock's budget. Alone
0.05 at most, beside two busy processes 0.60 to 0.69."""
CLOCK = 0.90
"""Share of the pass's highest GPU clock below which a sample ran on another machine, so to speak."""
PACES = 5
"""Repetitions of the work that `pace` times, of which one is hardly interrupted."""
RESOLUTION = 0.05
"""Core seconds below which nothing is claimed: the kernel counts in ticks of 10 ms, on each core."""
FEWEST_SWITCHES = 5
ENOUGH = 3
"""Valid samples (or half of those wanted, if that is more) below which a median of the valid ones says too little."""


@dataclass(frozen=True)
class Reading:
    """Counters at one moment, in seconds since some beginning; None where the system does not count."""

    wall: float
    busy: float
    own: float
    steal: float | None = None
    pressure: float | None = None
    switches: int | None = None
    clock: int | None = None
    throttle: tuple[str, ...] = ()
    others: int = 0
    pace: float | None = None


def read(device: Device | None) -> Reading:
    """Takes some milliseconds: call it outside of what is timed."""
    times = psutil.cpu_times()
    busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
    switches = None
    if sys.platform != "win32":
        import resource

        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    return Reading(
        wall=time.perf_counter(),
        busy=busy,
        own=_own_seconds(),
        steal=getattr(times, "steal", None),
        pressure=_pressure(),
        switches=switches,
        clock=None if device is None else device.clock(),
        throttle=() if device is None else device.throttle(),
        others=0 if device is None else device.others(),
        pace=pace(),
    )


def pace() -> float:
    """Seconds of a fixed piece of work on one core, the least of several: how slow the machine is at this moment.

    A neighbour on the other half of a core, or a lower clock, shows in no counter of a virtual machine. It spoils no
    sample, since cores may differ by design: a report compares it between cells. Arithmetic in the nearest cache: on a
    virtual Xeon, samples beside which it took half as long again as beside their cell's others were 1.3 times slower.
    Without BLAS, whose threads would go on spinning into what is timed.
    """
    work, least = np.linspace(-1, 1, 1 << 12, dtype=np.float32), math.inf
    made = np.empty_like(work)
    for _ in range(PACES):
        start = time.perf_counter()
        for _ in range(300):
            np.multiply(work, work, out=made)
            np.add(made, work, out=made)
        least = min(least, time.perf_counter() - start)
    return least


def _own_seconds() -> float:
    """CPU seconds of this process and its children, dead and alive."""
    process = psutil.Process()
    times = process.cpu_times()
    total = time.process_time() + times.children_user + times.children_system
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            total += sum(child.cpu_times()[:2])
    return total


def _pressure() -> float | None:
    """Seconds in which at least one task waited for a core; Linux with pressure stall information."""
    try:
        some = Path("/proc/pressure/cpu").read_text(encoding="ascii").splitlines()[0]
        return int(some.rpartition("total=")[2]) * 1e-6
    except (OSError, ValueError, IndexError):
        return None


def between(
    before: Reading, after: Reading, cores: int, threads: int, top_clock: int | None
) -> Contamination:
    """What happened between two readings, on a machine of `cores`; `top_clock` is the pass's highest."""
    wall = after.wall - before.wall
    steal = None if before.steal is None or after.steal is None else max(0.0, after.steal - before.steal)
    waited = (
        None
        if before.pressure is None or after.pressure is None
        else max(0.0, after.pressure - before.pressure)
    )
    switched = None if before.switches is None or after.switches is None else after.switches - before.switches
    foreign = max(0.0, (after.busy - before.busy) - (after.own - before.own))
    capacity = wall * cores
    paced = None if before.pace is None or after.pace is None else (before.pace + after.pace) / 2
    reasons = []
    if steal is not None and steal > max(STEAL * capacity, RESOLUTION):
        reasons.append("steal time")
    if waited is not None and waited > max(PRESSURE * wall, RESOLUTION):
        reasons.append("waiting for a core")
    if waited is None and switched is not None and switched > max(SWITCHES * threads * wall, FEWEST_SWITCHES):
        reasons.append("involuntary switches")
    if foreign > max(FOREIGN * capacity, RESOLUTION):
        reasons.append("foreign load")
    if after.clock is not None and top_clock is not None and after.clock < CLOCK * top_clock:
        reasons.append("GPU clock")
    if after.throttle or before.throttle:
        reasons.append("GPU throttled")
    if after.others or before.others:
        reasons.append("other processes on the GPU")
    return Contamination(
        seconds=wall,
        steal=None if steal is None else steal / capacity,
        pressure=None if waited is None else waited / wall,
        switches=None if switched is None else switched / wall / threads,
        foreign=foreign / capacity,
        pace=paced,
        gpu_clock=after.clock,
        gpu_throttle=tuple(dict.fromkeys((*before.throttle, *after.throttle))),
        gpu_others=max(before.others, after.others),
        reasons=tuple(reasons),
    )


@dataclass(frozen=True)
class Decision:
    """`keep`: places of the samples to report; `disturbed`: too few were valid for their median to say much."""

    keep: tuple[int, ...]
    disturbed: bool = False
    warning: str = ""


def decide(samples: Sequence[Contamination], wanted: int) -> Decision:
    """The valid samples, however few; where there is none, all of them, since a record wants a number.

    With fewer than `ENOUGH` (or half of `wanted`) the record says that it is disturbed.
    """
    valid = tuple(place for place, sample in enumerate(samples) if not sample.reasons)
    if len(valid) == len(samples):
        return Decision(valid)
    causes = Counter(reason for sample in samples for reason in sample.reasons)
    why = ", ".join(f"{reason} in {count}" for reason, count in causes.most_common())
    if not valid:
        warning = f"none of {len(samples)} timed samples was undisturbed, so the medians are over all of them: {why}"
        return Decision(tuple(range(len(samples))), disturbed=True, warning=warning)
    few = len(valid) < min(wanted, max(ENOUGH, math.ceil(wanted / 2)))
    says = ", and the medians of so few say little" if few else ""
    left_out = len(samples) - len(valid)
    return Decision(
        valid, few, f"{left_out} of {len(samples)} timed samples were disturbed and left out{says}: {why}"
    )
