"""The GPU that this process computes on, asked through NVML; tests pass an object that answers like it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

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
    """`nvml` is the module pynvml, or what answers like it; `handle` its device."""

    nvml: Any
    handle: Any

    def clock(self) -> int:
        """SM clock in MHz."""
        return int(self.nvml.nvmlDeviceGetClockInfo(self.handle, self.nvml.NVML_CLOCK_SM))

    def throttle(self) -> tuple[str, ...]:
        bits = self.nvml.nvmlDeviceGetCurrentClocksEventReasons(self.handle)
        return tuple(
            text
            for name, text in HARMFUL.items()
            if bits & getattr(self.nvml, f"nvmlClocksEventReason{name}")
        )

    def others(self) -> int:
        """Processes that compute on the device besides this one."""
        running = self.nvml.nvmlDeviceGetComputeRunningProcesses(self.handle)
        return sum(process.pid != os.getpid() for process in running)

    def joules(self) -> float:
        """Energy since the driver was loaded, of the whole card: idle power and other processes included."""
        return int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)) / 1000


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
