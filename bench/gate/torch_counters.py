"""Counters of one call in PyTorch: what does not flake. Imports torch in its functions only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def count(run: Callable[[], object], models: Sequence[Any]) -> dict[str, int]:
    """Counters of a warm call of `run`, each in a call of its own: bytes of parameters and buffers, FLOPs of matrix
    products, convolutions and attention, peak bytes of live tensors, operators called; on CUDA, kernels launched.
    """
    import torch

    counters = {
        "parameter_bytes": _parameter_bytes(models),
        "flops": _flops(run),
        "aten_calls": _aten_calls(run),
    }
    if torch.cuda.is_available():
        return counters | _cuda_counters(run)
    return counters | _cpu_memory(run)


def _parameter_bytes(models: Sequence[Any]) -> int:
    """Of storages, so that tied weights count once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for model in models
        for tensor in (*model.parameters(), *model.buffers())
    }
    return sum(storages.values())


def _flops(run: Callable[[], object]) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def _aten_calls(run: Callable[[], object]) -> int:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.calls += 1
            return func(*args, **(kwargs or {}))

    with Counter() as counter:
        run()
    return counter.calls


def _cpu_memory(run: Callable[[], object]) -> dict[str, int]:
    """Peak live bytes; the resident set only where the kernel lets its high-water mark be reset."""
    from bench.measure import PeakResident, peak_tensor_bytes
    from bench.records import NOT_MEASURABLE

    resident = PeakResident(0)
    run()
    peak_resident = resident.read()
    with peak_tensor_bytes() as peaks:
        run()
    found = {"peak_tensor_bytes": peaks[0]}
    return found if peak_resident == NOT_MEASURABLE else found | {"resident_bytes": int(peak_resident)}


def _cuda_counters(run: Callable[[], object]) -> dict[str, int]:
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run()
        torch.cuda.synchronize()
    on_device = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    kernels = sum(not event.name.startswith(("Memcpy", "Memset")) for event in on_device)
    return {"peak_tensor_bytes": peak, "kernel_launches": kernels, "cuda_bytes": reserved}
