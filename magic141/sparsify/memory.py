"""Bytes of parameters: as they are stored, and as they would be."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from magic141.errors import InputError
from magic141.sparsify import QUANTISED

INT4_GROUP = 64
"""Weights that share a scale and a zero point in int4."""
SENSITIVE = ("x_embedder", "time_text_embed", "norm_out", "proj_out")
"""Left alone by int4: a twelfth of the lab weights, and three quarters of the squared error."""


def parameter_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers as stored: masked weights count in full, quantised ones with their scales.

    A tensor that two names share counts once.
    """
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(_stored(tensor) for tensor in tensors.values())


def predicted_bytes(model: nn.Module, kind: str | None = None, dtype: torch.dtype = torch.bfloat16) -> int:
    """What `parameter_bytes` would be in `dtype`, or after quantisation of it: also for a model on the meta device.

    kind: None; "int8" and "fp8" keep a byte a weight and a float32 scale a row (int8 a zero point of a byte besides);
    "int4" keeps half a byte a weight, and a scale and a zero point in `dtype` for each `INT4_GROUP` weights of a row.

    Raises:
        InputError: the kind is unknown.
    """
    if kind not in (None, *QUANTISED):
        raise InputError(f"{kind=} is unknown; use None or one of {', '.join(QUANTISED)}")
    total = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers())) * dtype.itemsize
    for layer in quantisable(model, kind).values() if kind else ():
        weights, rows = layer.weight.numel(), layer.out_features
        total -= weights * dtype.itemsize
        if kind == "int4":
            total += weights // 2 + 2 * dtype.itemsize * weights // INT4_GROUP
        else:
            total += weights + rows * (4 if kind == "fp8" else 5)
    return total


def quantisable(model: nn.Module, kind: str) -> dict[str, nn.Linear]:
    """The layers whose weights a kind of quantisation changes, by name; biases are never changed.

    All linear layers, but for "int4" those that are `SENSITIVE`, or whose width is no multiple of `INT4_GROUP`.
    """
    linears = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    if kind != "int4":
        return linears
    return {
        name: layer
        for name, layer in linears.items()
        if layer.in_features % INT4_GROUP == 0 and not any(f"{part}." in f"{name}." for part in SENSITIVE)
    }


def _stored(tensor: Any) -> int:
    if not hasattr(tensor, "__tensor_flatten__"):
        plain: Tensor = tensor
        return plain.numel() * plain.element_size()
    names, _ = tensor.__tensor_flatten__()
    return sum(_stored(getattr(tensor, name)) for name in names)
