"""Counter-based random numbers: the same seed and counters give the same number in any batch, on any device."""

from __future__ import annotations

import math

from torch import Tensor

_MASK = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    """One round of a 32-bit integer finaliser (xor-shift, multiply), in int64 lanes so that nothing overflows."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x46CA6B25) & _MASK
    return x ^ (x >> 16)


def uniform(seed: Tensor, *counters: Tensor | int) -> Tensor:
    """Numbers in [0, 1) of the broadcast shape of `seed` and `counters` (all integer tensors), float32."""
    state = _mix(seed & _MASK)
    for counter in counters:
        state = _mix((state + (counter + 1) * 0x1E3779B1) & _MASK)
    return (state >> 8).float() * (1.0 / (1 << 24))


def normal(seed: Tensor, *counters: Tensor | int) -> Tensor:
    """Standard normal numbers (Box-Muller) of the broadcast shape of `seed` and `counters`."""
    radius = (-2.0 * (1.0 - uniform(seed, *counters, 0)).log()).sqrt()
    return radius * (2 * math.pi * uniform(seed, *counters, 1)).cos()
