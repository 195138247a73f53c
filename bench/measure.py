"""Clocks and memory. Imports torch nowhere at the top: a system without torch is measured without it."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from bench.records import NOT_MEASURABLE, Bytes, Memory, Timing, Windows
from evals import statistics

if TYPE_CHECKING:
    from bench import nvml


class Stopwatch:
    """Records seconds of every stage: `with stopwatch("VAE decode"): …`; the device is synchronised at edges.

    Attributes:
        samples: seconds of every pass through every stage, in order.
        current: names of the stages that are open, outermost first; after an exception, of those it broke.
    """

    def __init__(self, synchronise: Callable[[], None] | None = None) -> None:
        self.samples: dict[str, list[float]] = {}
        self.current: list[str] = []
        self._synchronise = synchronise or (lambda: None)

    def __call__(self, name: str) -> _Stage:
        return _Stage(self, name)

    def open(self, name: str) -> None:
        self.current.append(name)
        self._synchronise()

    def close(self, name: str, start: int) -> None:
        self._synchronise()
        self.samples.setdefault(name, []).append((perf_counter_ns() - start) * 1e-9)
        self.current.pop()


class _Stage:
    """A class and not a generator: entering a `contextmanager` costs three times as much."""

    __slots__ = ("_name", "_start", "_stopwatch")

    def __init__(self, stopwatch: Stopwatch, name: str) -> None:
        self._stopwatch, self._name = stopwatch, name

    def __enter__(self) -> None:
        self._stopwatch.open(self._name)
        self._start = perf_counter_ns()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._stopwatch.close(self._name, self._start)


class StageMemory(Stopwatch):
    """Peak CUDA bytes per stage, in the place of seconds. A stage inside another counts towards both."""

    def __init__(self) -> None:
        super().__init__(synchronise())
        self.peaks: dict[str, int] = {}
        self.peak = self.reserved = 0

    def open(self, name: str) -> None:
        super().open(name)
        self._flush()

    def close(self, name: str, start: int) -> None:
        super().close(name, start)
        self.current.append(name)
        self._flush()
        self.current.pop()

    def _flush(self) -> None:
        """Credit the peak since the last edge to every stage open now, then reset it."""
        import torch

        peak = torch.cuda.max_memory_allocated()
        self.peak = max(self.peak, peak)
        self.reserved = max(self.reserved, torch.cuda.max_memory_reserved())
        for name in self.current:
            self.peaks[name] = max(self.peaks.get(name, 0), peak)
        torch.cuda.reset_peak_memory_stats()


def has_cuda() -> bool:
    """Whether torch is loaded and has a CUDA device. Does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_available())


def synchronise() -> Callable[[], None] | None:
    """What waits for the device, or None where calls return when their work is done."""
    return sys.modules["torch"].cuda.synchronize if has_cuda() else None


def timing(samples: list[float]) -> Timing:
    """Median of positive seconds with its 95 % interval (`evals.statistics.median`: none below five samples).

    The samples come from one process: the interval says nothing about what a restart would change.
    """
    found = statistics.median(samples)
    low, high = (None if math.isnan(bound) else bound for bound in (found.low, found.high))
    return Timing(median=found.value, low=low, high=high, n=found.n, samples=tuple(samples))


def windows(samples: Sequence[float], videos: int) -> Windows:
    """The pace of `videos` long videos of one length: seconds of their windows (videos * windows,) in order."""
    seconds = np.asarray(samples).reshape(videos, -1)
    first, later = timing(seconds[:, 0].tolist()), seconds[:, 1:].ravel()
    if later.size == 0:
        return Windows(first_frame=first)
    return Windows(
        first_frame=first,
        later=timing(later.tolist()),
        jitter=float(later.std()),
        slowest=float(later.max()),
    )


EMPTY_LIMIT = 20e-6
"""Seconds that an empty timed region may cost."""


def empty_region_seconds(rounds: int = 1000, stopwatch: Stopwatch | None = None) -> float:
    """Median seconds that a stage with nothing in it takes, the bookkeeping of `stopwatch` included."""
    stopwatch = stopwatch or Stopwatch(synchronise())
    costs = []
    for _ in range(rounds):
        start = perf_counter_ns()
        with stopwatch("empty"):
            pass
        costs.append((perf_counter_ns() - start) * 1e-9)
    return float(np.median(costs))


def anonymous_bytes() -> int:
    """Resident bytes of this process that no file backs. Pages of libraries come and go as code runs."""
    info = psutil.Process().memory_info()
    return int(info.rss - getattr(info, "shared", 0))


class PeakResident:
    """Peak resident bytes above `baseline` (an `anonymous_bytes` after imports) since its making; Linux."""

    def __init__(self, baseline: int) -> None:
        self._baseline = baseline
        self._reset = _reset_high_water_mark()

    def read(self) -> Bytes:
        peak = (peak_anonymous_bytes("self") or 0) - self._baseline
        return peak if self._reset and peak > 0 else NOT_MEASURABLE


def peak_anonymous_bytes(pid: int | str) -> int | None:
    """High-water mark of a process's resident bytes that no file backs; None where it is gone, or not Linux."""
    try:
        status = process_status(pid)
        return status["VmHWM"] - status["RssFile"] - status["RssShmem"]
    except (OSError, KeyError):  # a process that has ended has no memory to speak of
        return None


def process_status(pid: int | str) -> dict[str, int]:
    """The sizes in /proc/PID/status, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    fields = (line.partition(":") for line in lines if line.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 for name, _, value in fields}


def _reset_high_water_mark() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


@contextmanager
def peak_tensor_bytes() -> Iterator[list[int]]:
    """Peak bytes of live CPU tensors inside the block, those alive at its start included; goes to the list.

    The running sum of the profiler's memory events, with one thread so that their order is the allocations'.
    A dispatch mode would miss what fused operators allocate inside.
    """
    import torch

    result: list[int] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alive = _live_tensor_bytes()
    try:
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profile:
            yield result
    finally:
        torch.set_num_threads(threads)
    events = _memory_events(profile)
    result.append(alive + max(0, int(np.cumsum(events).max(initial=0))))


def _memory_events(profile: Any) -> np.ndarray:
    """Signed bytes of every CPU allocation, in order of time."""
    cpu = 0  # c10::DeviceType::CPU
    events = [
        (event.start_ns(), event.nbytes())
        for event in profile.profiler.kineto_results.events()
        if event.name() == "[memory]" and int(event.device_type().value) == cpu
    ]
    return np.asarray([size for _, size in sorted(events, key=lambda event: event[0])], dtype=np.int64)


def _live_tensor_bytes() -> int:
    import torch

    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        # A tensor around others (torchao's weights of few bits) has no storage; those inside it are met as well.
        wraps = hasattr(type(thing), "__tensor_flatten__")
        if issubclass(type(thing), torch.Tensor) and not wraps:
            storage = thing.untyped_storage()
            # Not the tensor's device: a compiler's fake tensor says that it is on the CPU, and has no address there.
            if storage.device.type == "cpu":
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def memory(
    generate: Callable[[Stopwatch], object], baseline: int, device: nvml.Device | None = None
) -> Memory:
    """Peaks over one warm call of `generate`, which gets the stopwatch to mark its stages with.

    `device` is asked what the driver counts for this process.

    On CUDA per stage, allocated and reserved; on a CPU live tensor bytes, in a second call of their own.
    """
    resident = PeakResident(baseline)
    if has_cuda():
        stages = StageMemory()
        with stages("generation"):
            generate(stages)
        return Memory(
            tensors=NOT_MEASURABLE,
            resident=resident.read(),
            cuda_allocated=stages.peak or NOT_MEASURABLE,
            cuda_reserved=stages.reserved or NOT_MEASURABLE,
            nvml_process=(device and device.process_bytes()) or NOT_MEASURABLE,
            cuda_by_stage=stages.peaks,
        )
    generate(Stopwatch())
    peak_resident = resident.read()
    tensors: Bytes = NOT_MEASURABLE
    if "torch" in sys.modules:
        with peak_tensor_bytes() as peaks:
            generate(Stopwatch())
        tensors = peaks[0] or NOT_MEASURABLE
    return Memory(
        tensors=tensors,
        resident=peak_resident,
        cuda_allocated=NOT_MEASURABLE,
        cuda_reserved=NOT_MEASURABLE,
        nvml_process=NOT_MEASURABLE,
    )


def so_far(resident: PeakResident | None, before: Memory | None) -> Memory | None:
    """Peaks of a system that failed, `before` those of an earlier pass; what cannot be known reads so."""
    if resident is None:
        return before
    peak = resident.read()
    if before is not None:
        return (
            before
            if NOT_MEASURABLE in (peak, before.resident)
            else before.model_copy(update={"resident": max(int(peak), int(before.resident))})
        )
    allocated: Bytes = NOT_MEASURABLE
    if has_cuda():
        allocated = sys.modules["torch"].cuda.max_memory_allocated() or NOT_MEASURABLE
    return only(resident=peak, cuda_allocated=allocated)


def only(resident: Bytes, cuda_allocated: Bytes = NOT_MEASURABLE) -> Memory:
    """Peaks of which the others are not known."""
    return Memory(
        tensors=NOT_MEASURABLE,
        resident=resident,
        cuda_allocated=cuda_allocated,
        cuda_reserved=NOT_MEASURABLE,
        nvml_process=NOT_MEASURABLE,
    )
