"""Energy of a generation, through the GPU's total-energy counter, in a pass of its own."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.nvml import Device

SECONDS = 2.0
"""The counter moves in steps of up to 0.1 s: over two seconds that is 5 % at most."""


def joules(generate: Callable[[], object], device: Device | None, seconds: float = SECONDS) -> float | None:
    """Joules of one call of `generate`, averaged over as many as `seconds` take; None without a counter.

    Of the whole card, idle power included: what the clip costs whoever pays for the card. A counter that stands
    still gives None: never 0.
    """
    before = device.joules() if device else None
    if device is None or before is None:
        return None
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < seconds:
        generate()
        count += 1
    after = device.joules()
    return (after - before) / count if after is not None and after > before else None
