"""A student as its difference from its teacher: low-rank factors (LoRA, arXiv 2106.09685), small enough to ship.

A matrix is stored as `lora_A` (rank, in) and `lora_B` (out, rank), whose product is added to the teacher's; what is no
matrix, or no smaller in factors, is stored whole as `diff`. Merged once at loading: the student is as fast as its
teacher. Half precision, which is what pipelines are stored in.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from magic141.errors import InputError, WeightsCorrupt

Model = TypeVar("Model", bound=nn.Module)

FILE = "pytorch_lora_weights.safetensors"
"""Its name in a pipeline folder, and the prefix of its tensors: diffusers'."""
PREFIX = "transformer."


def factor(student: nn.Module, teacher: nn.Module, rank: int) -> dict[str, Tensor]:
    """Tensors of the adapter that brings `teacher` nearest to `student`, matrix by matrix (Eckart and Young 1936).

    Raises InputError: rank below 1, or models of different shapes.
    """
    if rank < 1:
        raise InputError(f"rank={rank} must be at least 1")
    ours, theirs = student.state_dict(), teacher.state_dict()
    if {name: value.shape for name, value in ours.items()} != {
        name: value.shape for name, value in theirs.items()
    }:
        raise InputError("student and teacher differ in shape: a pruned student ships whole")
    found: dict[str, Tensor] = {}
    for name, value in ours.items():
        difference = value.detach().float().cpu() - theirs[name].detach().float().cpu()
        if not difference.any():
            continue
        matrix = difference.flatten(1) if difference.ndim > 1 else difference[None]
        if difference.ndim == 1 or rank * sum(matrix.shape) >= matrix.numel():
            found[f"{PREFIX}{name}.diff"] = difference.half()
            continue
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        root = s[:rank].sqrt()
        layer = PREFIX + name.removesuffix(".weight")
        found[f"{layer}.lora_A.weight"] = (root[:, None] * v[:rank]).half().contiguous()
        found[f"{layer}.lora_B.weight"] = (u[:, :rank] * root).half().contiguous()
    return found


@torch.no_grad()
def strengthen(student: nn.Module, teacher: nn.Module, strength: float) -> None:
    """Multiply what `student` changes of `teacher` by `strength`, in place."""
    theirs = dict(teacher.named_parameters())
    for name, parameter in student.named_parameters():
        parameter.copy_(torch.lerp(theirs[name], parameter, strength))


def save(adapter: dict[str, Tensor], folder: Path) -> None:
    """Write `adapter` into a pipeline folder."""
    save_file(adapter, folder / FILE, metadata={"format": "pt"})


@torch.no_grad()
def merge(model: Model, folder: Path) -> Model:
    """Add the adapter in `folder` to the weights of `model`, in place, and return it.

    Raises WeightsCorrupt where it belongs to a model of other names or shapes.
    """
    path = folder / FILE
    tensors = load_file(path)
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, _, kind = key.removeprefix(PREFIX).partition(".lora_")
        if kind == "B.weight":
            continue
        if kind:
            name += ".weight"
            value = tensors[key.replace(".lora_A.", ".lora_B.")].float() @ value.float()
        else:
            name = name.removesuffix(".diff")
        if name not in parameters or parameters[name].numel() != value.numel():
            raise WeightsCorrupt(f"{path} changes {name!r}, which the model it is for lacks: pack it anew")
        parameter = parameters[name]
        parameter.add_(value.view_as(parameter).to(parameter))
    return model


def left_out(student: nn.Module, teacher: nn.Module, folder: Path) -> float:
    """The share of the squared difference between the models that the adapter in `folder` lacks. Changes `teacher`."""
    ours = dict(student.named_parameters())
    whole = sum((ours[name] - value).square().sum().item() for name, value in teacher.named_parameters())
    merge(teacher, folder)
    rest = sum((ours[name] - value).square().sum().item() for name, value in teacher.named_parameters())
    return rest / whole if whole else 0.0
