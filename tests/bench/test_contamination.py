import dataclasses
import itertools
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import contamination, energy, latency
from bench.contamination import Reading, between, decide
from bench.nvml import Device
from bench.records import Contamination
from bench.suite import Suite

QUIET = Reading(wall=0, busy=100, own=50, steal=1, pressure=5, switches=10, clock=1980)
"""A moment; one second later on four cores, `LATER`, with two threads of ours and nobody else."""
LATER = Reading(wall=1, busy=102, own=52, steal=1, pressure=5.01, switches=12, clock=1980)


def found(cores: int = 4, top_clock: int | None = 1980, **changes: object) -> Contamination:
    return between(QUIET, dataclasses.replace(LATER, **changes), cores, 2, top_clock)  # type: ignore[arg-type]


def test_a_quiet_sample_is_valid() -> None:
    sample = found()
    assert sample.reasons == ()
    assert (sample.steal, sample.foreign, sample.switches) == (0, 0, 1)
    assert sample.pressure == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steal": 1.081}, "steal time"),
        ({"pressure": 5.16}, "waiting for a core"),
        ({"pressure": None, "switches": 411}, "involuntary switches"),
        ({"busy": 102.41}, "foreign load"),
        ({"clock": 1780}, "GPU clock"),
        ({"throttle": ("heat",)}, "GPU throttled"),
        ({"others": 1}, "other processes on the GPU"),
    ],
)
def test_each_limit_is_crossed_alone(changes: dict[str, object], reason: str) -> None:
    assert found(**changes).reasons == (reason,)


@pytest.mark.parametrize(
    "changes",
    [
        {"steal": 1.079},
        {"pressure": 5.149},
        {"pressure": None, "switches": 410},
        {"switches": 5000},  # threads that wake each other: nobody else has waited
        {"busy": 102.39},
        {"clock": 1790},
        {"busy": 101.0},  # ticks are coarser than our own clock
    ],
)
def test_below_its_limit_nothing_is_claimed(changes: dict[str, object]) -> None:
    assert found(**changes).reasons == ()


def test_what_the_kernel_cannot_resolve_is_not_claimed() -> None:
    """Ten milliseconds on two cores: one tick of steal is a share of a half."""
    short = dataclasses.replace(
        QUIET, wall=0.01, busy=100.03, own=50.0, steal=1.01, pressure=5.005, switches=14
    )
    assert between(QUIET, short, 2, 2, None).reasons == ()


def test_what_is_not_counted_is_none() -> None:
    bare = [Reading(wall=wall, busy=0, own=0) for wall in (0, 1)]
    sample = between(*bare, 1, 1, None)
    assert (sample.steal, sample.pressure, sample.switches, sample.gpu_clock, sample.pace) == (None,) * 5
    assert sample.reasons == ()


VALID = found()
SPOILT = found(busy=104.0)


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(1, 10))
def test_valid_and_spoilt_are_never_mixed_unseen(valid: list[bool], wanted: int) -> None:
    samples = [VALID if good else SPOILT for good in valid]
    decision = decide(samples, wanted)
    kept = [samples[place] for place in decision.keep]
    assert kept == ([VALID] * sum(valid) or samples)
    assert bool(decision.warning) == (not all(valid))
    if decision.disturbed:
        assert sum(valid) < max(3, wanted)
        assert ("say little" if any(valid) else f"none of {len(valid)}") in decision.warning
    if not all(valid):
        assert f"foreign load in {valid.count(False)}" in decision.warning


def test_how_many_are_enough() -> None:
    assert not decide([VALID] * 3 + [SPOILT] * 7, 5).disturbed
    assert decide([VALID] * 2 + [SPOILT] * 8, 5).disturbed
    assert decide([VALID] * 4 + [SPOILT] * 16, 10).disturbed
    assert not decide([VALID] * 5 + [SPOILT] * 15, 10).disturbed
    assert not decide([VALID, SPOILT], 1).disturbed


def test_the_pace_of_the_machine_is_written_and_spoils_nothing() -> None:
    before = dataclasses.replace(QUIET, pace=0.001)
    sample = between(before, dataclasses.replace(LATER, pace=0.003), 4, 2, 1980)
    assert sample.pace == pytest.approx(0.002)
    assert sample.reasons == ()
    measured = contamination.read(None).pace
    assert measured is not None
    assert 0 < measured < 1


def test_a_child_counts_as_our_own() -> None:
    code = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\ninput()"
    before = contamination.read(None)
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    alive = contamination.read(None)
    child.communicate(b"\n")
    dead = contamination.read(None)
    assert alive.own - before.own > 0.15  # in ticks of a hundredth
    assert dead.own - before.own > 0.15
    assert before.wall < alive.wall < dead.wall


def test_steady_means_no_trend() -> None:
    assert latency.steady([1.0, 1.0, 1.0])
    assert latency.steady([2.0, 1.0, 1.01, 0.99])
    assert latency.steady([1.0, 0.98, 0.96])  # a twentieth in all is none
    assert not latency.steady([2.0, 1.0, 0.98])
    assert not latency.steady([1.0, 1.1, 1.2])
    assert not latency.steady([1.0, 1.0])


def suite(**changes: object) -> Suite:
    fields: dict[str, object] = {
        "name": "s",
        "systems": {"a": {"adapter": "bench.baselines.fake:Fake"}},
        "prompts": {"texts": ["x"]},
        "metrics": ["noise"],
    }
    return Suite.model_validate(fields | changes)


class Machine:
    """Plays times and disturbances by pass: `warm` for warm-up, then `spoilt` says which samples are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, warm: list[float], spoilt: list[bool]) -> None:
        self.warm, self.passes, self.numbers = iter(warm), [], []  # type: ignore[var-annotated]
        moments = itertools.count()
        monkeypatch.setattr(
            contamination, "read", lambda device: dataclasses.replace(QUIET, wall=next(moments))
        )
        monkeypatch.setattr(
            contamination, "between", lambda before, *_: SPOILT if spoilt[int(before.wall) // 2] else VALID
        )

    def __call__(self, number: int, name: str) -> latency.Sample:
        self.passes.append(name)
        self.numbers.append(number)
        seconds = next(self.warm) if name == "warm-up" else float(self.passes.count("latency"))
        return latency.Sample({"denoise": [seconds / 2] * 2, "end to end": [seconds]}, video=2.0)


FIRST = latency.Sample({"end to end": [9.0]}, video=2.0)


def test_warm_up_ends_when_times_are_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, [4.0, 1.0, 1.2, 1.1], [False] * 5)
    times = latency.latency(machine, suite(), 2, FIRST)
    assert machine.passes == ["warm-up"] * 3 + ["latency"] * 5  # 4, 1, 1.2 has no trend
    assert times.stages["end to end"].samples == (1.0, 2.0, 3.0, 4.0, 5.0)
    assert times.stages["denoise"].n == 10
    assert times.real_time_factor.median == 1.5
    assert times.compile == (9 - 3) + (4 - 3)  # beyond the steady median
    assert machine.numbers == [
        1,
        2,
        3,
        *range(6, 11),
    ]  # no batch twice, nor the first one; at most five warm up
    assert (times.flags, times.warnings) == ((), ())


def test_warm_up_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, [8.0, 7.0, 6.0, 5.0], [False] * 5)
    times = latency.latency(machine, suite(warmup_limit=4), 2, FIRST)
    assert machine.passes.count("warm-up") == 4
    assert times.warnings == ("times still had a trend after 4 generations of warm-up",)


def test_a_clock_that_still_rises_spoils_what_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = iter([900, 900, 900, 1100, 1100, 1500, 1500, 1980, 1980, 1980, *[1980] * 10])
    moments = itertools.count()

    def read(device: object) -> Reading:
        moment = next(moments)
        return Reading(wall=moment, busy=2 * moment, own=2 * moment, clock=next(clocks))

    monkeypatch.setattr(contamination, "read", read)
    passes: list[str] = []

    def timed(number: int, name: str) -> latency.Sample:
        passes.append(name)
        return latency.Sample({"end to end": [float(len(passes))]}, video=2.0)

    times = latency.latency(timed, suite(warmup=0), 2, FIRST)
    assert passes == ["latency"] * 8
    assert [one.reasons for one in times.contamination] == [("GPU clock",)] * 3 + [()] * 5
    assert times.stages["end to end"].samples == (4.0, 5.0, 6.0, 7.0, 8.0)


def test_disturbed_samples_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, [9.0, 9.0], [True, False, False, True, False, False, False])
    times = latency.latency(machine, suite(), 2, FIRST)
    assert times.stages["end to end"].samples == (2.0, 3.0, 5.0, 6.0, 7.0)
    assert [bool(one.reasons) for one in times.contamination] == [
        True,
        False,
        False,
        True,
        False,
        False,
        False,
    ]
    assert times.flags == ()
    assert times.warnings == ("2 of 7 timed samples were disturbed and left out: foreign load in 2",)


def test_too_many_disturbed_samples_are_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, [9.0, 9.0], [True] * 8)
    times = latency.latency(machine, suite(extra_repeats=3), 2, FIRST)
    assert times.stages["end to end"].n == 8
    assert times.flags == ("disturbed",)
    assert "none of 8" in times.warnings[0]


REASONS = {
    "HwSlowdown": 0x8,
    "SwThermalSlowdown": 0x20,
    "HwThermalSlowdown": 0x40,
    "HwPowerBrakeSlowdown": 0x80,
}


class FakeNvml:
    """Answers like pynvml: a card of 300 W by a clock of its own."""

    NVML_CLOCK_SM = 1
    NVMLError = OSError

    def __init__(self, bits: int = 0) -> None:
        self.millijoules, self.bits = 5_000_000, bits
        for name, bit in REASONS.items():
            setattr(self, f"nvmlClocksEventReason{name}", bit)

    def nvmlDeviceGetClockInfo(self, handle: object, kind: int) -> int:  # noqa: N802
        return 1755

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: object) -> int:  # noqa: N802
        return self.bits

    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> list[object]:  # noqa: N802
        return [SimpleNamespace(pid=os.getpid()), SimpleNamespace(pid=1), SimpleNamespace(pid=2**31 - 1)]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:  # noqa: N802
        return self.millijoules


def test_a_device_is_read() -> None:
    reading = contamination.read(Device(FakeNvml(bits=0x4 | 0x20), None))  # a power cap, and heat
    assert (reading.clock, reading.throttle, reading.others) == (1755, ("heat",), 1)


def test_the_driver_counts_what_this_process_holds() -> None:
    class Counting(FakeNvml):
        held: int | None = 3_000

        def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> list[object]:  # noqa: N802
            return [
                SimpleNamespace(pid=1, usedGpuMemory=9),
                SimpleNamespace(pid=os.getpid(), usedGpuMemory=self.held),
            ]

    counting = Counting()
    assert Device(counting, None).process_bytes() == 3_000
    counting.held = None  # as Windows answers
    assert Device(counting, None).process_bytes() is None


def test_a_card_that_refuses_to_answer_costs_no_cell() -> None:
    class Slice(FakeNvml):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith("nvmlDevice"):
                raise OSError("not supported")
            return super().__getattribute__(name)

    assert Device(Slice(), None).process_bytes() is None
    reading = contamination.read(Device(Slice(), None))
    assert (reading.clock, reading.throttle, reading.others) == (None, (), 0)


def test_energy_is_counted_per_call() -> None:
    nvml = FakeNvml()

    def generate() -> None:
        nvml.millijoules += 300_000

    assert energy.joules(generate, Device(nvml, None), seconds=0.01) == pytest.approx(300)


def test_without_a_counter_there_is_no_energy() -> None:
    class Refuses(FakeNvml):
        def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:  # noqa: N802
            raise self.NVMLError("not supported")

    assert energy.joules(lambda: None, None) is None
    assert energy.joules(lambda: None, Device(Refuses(), None), seconds=0) is None
    assert (
        energy.joules(lambda: None, Device(FakeNvml(), None), seconds=0) is None
    )  # it stands still: never 0
