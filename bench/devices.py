"""Accelerators as their vendor's data sheets describe them: what no kernel can beat. Imports no torch.

The sheets' figures were last checked where others quote their tables; of the sheets no copy was at hand.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """Dense bf16 FLOP/s with float32 accumulation, and bytes/s of its memory."""

    name: str
    flops: float
    bandwidth: float
    source: str


DEVICES = (
    Device(
        "H100 SXM",
        989.4e12,
        3.35e12,
        "NVIDIA H100 architecture white paper 1.04, table 3: 989.4 TFLOP/s dense; data sheet: 3.35 TB/s",
    ),
    Device(
        "H100 SXM, 790 reached",
        790e12,
        3.35e12,
        "large dense bf16 products as measured on one H100 for this project",
    ),
    Device(
        "H200",
        989.4e12,
        4.8e12,
        "NVIDIA H200 data sheet: 1,979 TFLOP/s with sparsity, as H100, whose dense figure this is; 4.8 TB/s",
    ),
    Device(
        "B200",
        2250e12,
        7.7e12,
        "NVIDIA Blackwell data sheet, HGX B200 of 180 GB: 4.5 PFLOP/s with sparsity, half of it dense; 7.7 TB/s, "
        "and 8 only in GB200 and in the announcement of 192 GB",
    ),
    Device(
        "A100 80 GB SXM",
        312e12,
        2.039e12,
        "NVIDIA A100 data sheet: 312 TFLOP/s dense; 2,039 GB/s of 80 GB SXM",
    ),
    Device(
        "RTX 5090",
        209.5e12,
        1.792e12,
        "NVIDIA RTX Blackwell GPU architecture, table 3: 209.5 TFLOP/s dense with float32 accumulation; 1,792 GB/s",
    ),
    Device(
        "RTX 4090",
        165.2e12,
        1.008e12,
        "NVIDIA Ada GPU architecture, appendix A, table 2: 165.2 TFLOP/s dense with float32 accumulation; 1,008 GB/s",
    ),
)


def floor(device: Device, flops: float, weight_bytes: float) -> float:
    """Seconds that a forward pass takes at the very least: its arithmetic, or reading its weights once."""
    return max(flops / device.flops, weight_bytes / device.bandwidth)
