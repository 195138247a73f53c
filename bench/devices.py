"""Accelerators as their vendor's data sheets describe them: what no kernel can beat. Imports no torch."""

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
        "H100 SXM", 989.4e12, 3.35e12, "NVIDIA H100 data sheet: 1,979 TFLOP/s with sparsity, half of it dense"
    ),
    Device(
        "H100 SXM, 790 reached",
        790e12,
        3.35e12,
        "large dense bf16 products as measured on one H100 for this project",
    ),
    Device("H200", 989.4e12, 4.8e12, "NVIDIA H200 data sheet: 1,979 TFLOP/s with sparsity, half of it dense"),
    Device(
        "B200",
        2250e12,
        8.0e12,
        "NVIDIA Blackwell architecture brief, HGX B200: 4.5 PFLOP/s with sparsity, half of it dense",
    ),
    Device("A100 80 GB SXM", 312e12, 2.039e12, "NVIDIA A100 80 GB data sheet"),
    Device(
        "RTX 5090",
        209.5e12,
        1.792e12,
        "NVIDIA RTX Blackwell GPU architecture, specifications of the RTX 5090",
    ),
    Device("RTX 4090", 165.2e12, 1.008e12, "NVIDIA Ada GPU architecture, specifications of the RTX 4090"),
)


def floor(device: Device, flops: float, weight_bytes: float) -> float:
    """Seconds that a forward pass takes at the very least: its arithmetic, or reading its weights once."""
    return max(flops / device.flops, weight_bytes / device.bandwidth)
