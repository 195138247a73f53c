"""Whether this CPU multiplies bfloat16 natively. Imports no torch: the harness asks before it loads it."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction sets by their Linux names; empty where there is no /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next(
        (frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), frozenset()
    )


def native_bfloat16() -> bool:
    """True with AMX tiles. Without them PyTorch emulates bfloat16 on a CPU, 10 to 40 times slower than float32."""
    return "amx_bf16" in cpu_flags()
