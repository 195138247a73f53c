"""Masks by magnitude: weights set to zero in dense layers, which stay as large and as slow as they were.

They are for quality curves. Only `pack_semi_structured` makes something smaller of them, on a GPU that can.
"""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.utils import prune
from torch.sparse import SparseSemiStructuredTensor, to_sparse_semi_structured

from magic141.errors import InputError, UnsupportedError
from magic141.sparsify.groups import check_dense, layers
from magic141.transformer import Magic141Transformer3DModel

GROUP = 4
CAPABILITY = (8, 0)
"""Of NVIDIA GPUs with sparse tensor cores: Ampere and later."""


def mask_unstructured(model: Magic141Transformer3DModel, ratio: float) -> None:
    """Set the share `ratio` of the weights of each layer of the blocks to zero, the smallest, in place.

    Raises:
        InputError: ratio outside [0, 1), or the model is quantised.
    """
    check_dense(model, "mask")
    if not 0 <= ratio < 1:
        raise InputError(f"{ratio=} must lie in [0, 1): it is the share of weights that become zero")
    for layer in layers(model):
        prune.l1_unstructured(layer, "weight", amount=ratio)
        prune.remove(layer, "weight")


def mask_n_of_four(model: Magic141Transformer3DModel, ratio: float) -> None:
    """Of every 4 consecutive weights of a row set the `4 * ratio` smallest to zero, in place; 0.5 gives 2:4.

    Raises:
        InputError: ratio is not 0, 0.25, 0.5 or 0.75, a layer's width is no multiple of 4, or the model is quantised.
    """
    check_dense(model, "mask")
    zeros = round(GROUP * ratio)
    if zeros != GROUP * ratio or not 0 <= zeros < GROUP:
        raise InputError(f"{ratio=} must be 0, 0.25, 0.5 or 0.75: zeros are counted in groups of {GROUP}")
    for layer in layers(model):
        if layer.in_features % GROUP:
            raise InputError(f"a layer of width {layer.in_features} has no whole groups of {GROUP} weights")
    for layer in layers(model):
        prune.custom_from_mask(layer, "weight", largest(layer.weight, GROUP - zeros))
        prune.remove(layer, "weight")


def largest(weight: Tensor, keep: int) -> Tensor:
    """Mask like `weight` (out, in), true for the `keep` largest magnitudes of every 4 consecutive weights of a row."""
    groups = weight.detach().abs().unflatten(1, (-1, GROUP))
    mask = torch.zeros_like(groups, dtype=torch.bool)
    return mask.scatter_(-1, groups.topk(keep, dim=-1).indices, True).flatten(1)


def pack_semi_structured(model: Magic141Transformer3DModel) -> None:
    """Mask the layers of the blocks 2:4 and store them packed, for the sparse kernels of the model's GPU, in place.

    Files hold the masked weights only: save before packing.

    Raises:
        UnsupportedError: the model is not on a GPU with such kernels, or not in half precision.
        InputError: the model is quantised.
    """
    check_dense(model, "mask")
    check_kernels(model)
    mask_n_of_four(model, 0.5)
    for layer in layers(model):
        layer.weight = nn.Parameter(_packed(layer.weight.detach()), requires_grad=False)


def check_kernels(model: Magic141Transformer3DModel) -> None:
    """Raises UnsupportedError where the model's device or dtype has no 2:4 kernels."""
    device = model.device
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < CAPABILITY:
        raise UnsupportedError(
            f"2:4 kernels need an NVIDIA GPU of capability {CAPABILITY[0]}.{CAPABILITY[1]} or later, and the model is "
            f"on {device}: move it to one, or use kind 'n:m' for the same zeros in dense layers"
        )
    if model.dtype not in (torch.float16, torch.bfloat16):
        raise UnsupportedError(
            f"2:4 kernels take float16 and bfloat16, and the model is {model.dtype}: convert it"
        )


def _packed(weight: Tensor) -> SparseSemiStructuredTensor:
    try:
        return to_sparse_semi_structured(weight)
    except RuntimeError as error:
        raise UnsupportedError(
            f"no 2:4 kernel for a layer of shape {tuple(weight.shape)}: {error}"
        ) from error
