"""The latency pass: warm-up until times are steady, then samples until enough of them are undisturbed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import psutil

from bench import contamination, measure, nvml
from bench.errors import InvalidOutputError
from bench.records import DISTURBED, END_TO_END, WINDOW, Contamination, Timing, Windows
from bench.suite import Suite

STEADY, TREND = 3, 0.05
"""Times are steady when the last three neither fall nor rise by more than a twentieth in all."""


@dataclass(frozen=True)
class Sample:
    """Seconds of every stage of one generation, and of the video it made."""

    stages: dict[str, list[float]]
    video: float

    @property
    def seconds(self) -> float:
        return self.stages[END_TO_END][-1]


Timed = Callable[[int, str], Sample]
"""Generates batch `number` in the pass of that name, text in, files out. Each has prompts of its own, as far as they
go: a system that remembers what it was asked would be timed without its text encoder."""


@dataclass(frozen=True)
class Latency:
    """`compile`: seconds that the generations before the steady ones took beyond these. `windows`: of long videos."""

    stages: dict[str, Timing]
    real_time_factor: Timing
    windows: Windows | None
    compile: float
    contamination: tuple[Contamination, ...]
    flags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())


def steady(seconds: Sequence[float]) -> bool:
    """Whether the last `STEADY` times show no trend: one that is strictly monotone and larger than `TREND`."""
    if len(seconds) < STEADY:
        return False
    last = np.asarray(seconds[-STEADY:])
    steps = np.diff(last)
    monotone = bool((steps < 0).all() or (steps > 0).all())
    return not (monotone and abs(last[-1] - last[0]) > TREND * last.max())


def latency(timed: Timed, suite: Suite, threads: int, first: Sample) -> Latency:
    """Warms up after the `first` generation, then takes `repeats` valid samples, at most `extra_repeats` more."""
    warm = [first.seconds]
    limit = suite.warmup_limit if suite.warmup else 0
    while len(warm) <= suite.warmup or (len(warm) <= limit and not steady(warm)):
        warm.append(timed(len(warm), "warm-up").seconds)
    warnings = []
    if limit > suite.warmup and not steady(warm):
        warnings.append(f"times still had a trend after {len(warm) - 1} generations of warm-up")

    device, cores = nvml.open_device(), psutil.cpu_count() or 1
    samples: list[Sample] = []
    seen: tuple[Contamination, ...] = ()
    readings: list[tuple[contamination.Reading, contamination.Reading]] = []
    most = suite.repeats + suite.extra
    while len(samples) < most and sum(not one.reasons for one in seen) < suite.repeats:
        before = contamination.read(device)
        samples.append(timed(1 + limit + len(samples), "latency"))
        readings.append((before, contamination.read(device)))
        # Anew each time: a clock that still rises shows only later that its first samples ran on another machine.
        top_clock = max((after.clock for _, after in readings if after.clock is not None), default=None)
        seen = tuple(contamination.between(*both, cores, threads, top_clock) for both in readings)
    decision = contamination.decide(seen, suite.repeats)
    kept = [samples[place] for place in decision.keep]
    names = dict.fromkeys(name for sample in kept for name in sample.stages)
    stages = {name: [value for one in kept for value in one.stages.get(name, ())] for name in names}
    whole = measure.timing(stages[END_TO_END])
    return Latency(
        stages={name: measure.timing(values) for name, values in stages.items()},
        real_time_factor=measure.timing([sample.seconds / sample.video for sample in kept]),
        windows=_windows([one.stages.get(WINDOW, []) for one in kept]) if WINDOW in stages else None,
        compile=sum(max(0.0, value - whole.median) for value in warm),
        contamination=seen,
        flags=(DISTURBED,) if decision.disturbed else (),
        warnings=(*warnings, *filter(None, [decision.warning])),
    )


def _windows(seconds: Sequence[Sequence[float]]) -> Windows:
    """Of each sample. Raises InvalidOutputError unless all have marked as many."""
    counts = sorted({len(one) for one in seconds})
    if len(counts) > 1:
        raise InvalidOutputError(
            f"{counts[0]} to {counts[-1]} stages {WINDOW!r} in a generation: mark one for each window of a long video, "
            "and call other stages something else"
        )
    return measure.windows([value for one in seconds for value in one], len(seconds))
