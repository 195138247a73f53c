"""The GPU that this process computes on, asked through NVML; tests pass an object that answers like it."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from typing import Any

import psutil

from bench import measure

HARMFUL = {
    "HwSlowdown": "hardware slowdown",
    "HwThermalSlowdown": "heat (hardware)",
    "SwThermalSlowdown": "heat",
    "HwPowerBrakeSlowdown": "power brake",
}
"""Clock event reasons that come and go. A power cap is not one: under load it is how such a card always runs."""


@dataclass(frozen=True)
class Device:
    """`nvml` is the module pynvml, or what answers like it; `handle` its device.

    A question that a card refuses (MIG slices and virtual GPUs do) has no answer: None, or nothing to report.
    """

    nvml: Any
    handle: Any

    def clock(self) -> int | None:
        """SM clock in MHz."""
        with contextlib.suppress(self.nvml.NVMLError):
            return int(self.nvml.nvmlDeviceGetClockInfo(self.handle, self.nvml.NVML_CLOCK_SM))
        return None

    def throttle(self) -> tuple[str, ...]:
        with contextlib.suppress(self.nvml.NVMLError):
            bits = self.nvml.nvmlDeviceGetCurrentClocksEventReasons(self.handle)
            return tuple(
                text
                for name, text in HARMFUL.items()
                if bits & getattr(self.nvml, f"nvmlClocksEventReason{name}")
            )
        return ()

    def others(self) -> int:
        """Processes that compute on the device besides this one, of those that can be seen from here.

        In a container NVML tells the host's process ids, this process's own among them: they name nobody here.
        """
        with contextlib.suppress(self.nvml.NVMLError):
            running = self.nvml.nvmlDeviceGetComputeRunningProcesses(self.handle)
            return sum(process.pid != os.getpid() and psutil.pid_exists(process.pid) for process in running)
        return 0

    def process_bytes(self) -> int | None:
        """Memory that this process holds on the device, as the driver counts it."""
        with contextlib.suppress(self.nvml.NVMLError):
            running = self.nvml.nvmlDeviceGetComputeRunningProcesses(self.handle)
            # 0 and None: a container does not see its own process, or Windows does not tell.
            return next((int(one.usedGpuMemory or 0) for one in running if one.pid == os.getpid()), 0) or None
        return None

    def joules(self) -> float | None:
        """Energy since the driver was loaded, of the whole card: idle power and other processes included.

        Cards before Volta have no such counter.
        """
        with contextlib.suppress(self.nvml.NVMLError):
            return int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)) / 1000
        return None


def open_device() -> Device | None:
    """The CUDA device of this process; None on a CPU, or where NVML cannot be asked."""
    if not measure.has_cuda():
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        uuid = sys.modules["torch"].cuda.get_device_properties().uuid
        return Device(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
    except pynvml.NVMLError:
        return None
