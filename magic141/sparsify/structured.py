"""Structured pruning: a new transformer that lacks the least important heads, hidden units and units of conditioning,
or blocks.

Every block loses the same share, so that layers shrink alike and the saving is known beforehand. The width of the
residual stream stays, and so do query and key norms and rotary positions, which heads share.
"""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from magic141.blocks import kept
from magic141.errors import InputError
from magic141.sparsify.groups import HIDDEN, check_dense, sites
from magic141.sparsify.importance import Importance
from magic141.transformer import Magic141Transformer3DModel


def prune_layers(
    model: Magic141Transformer3DModel, ratio: float, importance: Importance, mlp_ratio: float | None = None
) -> Magic141Transformer3DModel:
    """A copy without the share `ratio` of the heads and of the hidden units of every block, and of the units of the
    conditioning, rounded down; of the hidden units `mlp_ratio`, if it is given.

    Its config has both. At ratio 0 it is the model itself, bit for bit.

    Raises:
        InputError: ratio outside [0, 1), or the model is pruned or quantised already.
    """
    check_whole(model)
    state = cut(model.state_dict(), what_stays(model, ratio, importance, mlp_ratio))
    return rebuilt(model, state, {"pruned_ratio": ratio, "pruned_mlp_ratio": mlp_ratio})


Stays = dict[tuple[str, int], Tensor]
"""(name of a parameter, axis) -> which of its rows or columns stay, for all that pruning can take some of."""


def cut(state: dict[str, Tensor], stays: Stays) -> dict[str, Tensor]:
    """The tensors of a state dict without what does not stay."""
    left = dict(state)
    for (key, axis), mask in stays.items():
        left[key] = left[key].index_select(axis, mask.nonzero().flatten().to(left[key].device))
    return left


def what_stays(
    model: Magic141Transformer3DModel, ratio: float, importance: Importance, mlp_ratio: float | None = None
) -> Stays:
    """What `prune_layers` leaves."""

    def share(site: str) -> float:
        return ratio if mlp_ratio is None or not site.endswith(HIDDEN) else mlp_ratio

    return all_but(model, {name: least(scores, share(name)) for name, scores in importance.groups.items()})


def all_but(model: Magic141Transformer3DModel, lost: dict[str, Tensor]) -> Stays:
    """What stays where the groups `lost` go, by the name of their site; a site that has no name there stays whole."""
    names = {layer: name for name, layer in model.named_modules()}
    stays: Stays = {}

    def take(layer: nn.Module, leaf: str, axis: int, gone: Tensor) -> None:
        key = f"{names[layer]}.{leaf}"
        whole = torch.ones(layer.get_parameter(leaf).shape[axis], dtype=torch.bool)
        stays.setdefault((key, axis), whole)[gone] = False

    for site in sites(model):
        gone = lost.get(site.name, torch.tensor([], dtype=torch.long))
        for writer in site.writers:
            take(writer.layer, "weight", writer.axis, writer.outputs()[gone])
            if getattr(writer.layer, "bias", None) is not None:
                take(writer.layer, "bias", 0, writer.outputs()[gone])
        for reader in site.readers:
            take(reader.layer, "weight", 1, reader.inputs()[gone])
    return stays


def prune_blocks(
    model: Magic141Transformer3DModel, ratio: float, importance: Importance
) -> Magic141Transformer3DModel:
    """A copy without the share `ratio` of its dual- and single-stream blocks, rounded down; the refiner stays.

    Its config has `pruned_blocks`. At ratio 0 it is the model itself, bit for bit.

    Raises:
        InputError: ratio outside [0, 1), or too small to take a block, or the model is pruned or quantised already.
    """
    check_whole(model)
    names = list(importance.blocks)
    lost = sorted(least(torch.tensor([importance.blocks[name] for name in names]), ratio).tolist())
    if ratio and not lost:
        raise InputError(
            f"ratio={ratio} of {len(names)} blocks takes none: ask for {1 / len(names):.2g} or more"
        )
    renamed: dict[str, str] = {}
    for index, name in enumerate(names):
        if index not in lost:
            kind = name.rpartition(".")[0]
            renamed[name] = f"{kind}.{sum(other.startswith(f'{kind}.') for other in renamed)}"
    state = {}
    for key, tensor in model.state_dict().items():
        block = next((name for name in names if key.startswith(f"{name}.")), "")
        if block in renamed:
            key = renamed[block] + key.removeprefix(block)
        elif block:
            continue
        state[key] = tensor
    return rebuilt(model, state, {"pruned_blocks": tuple(lost) or None})


def least(scores: Tensor, ratio: float) -> Tensor:
    """Indices of the share `ratio` with the lowest scores; of equals, the last ones.

    Raises InputError: ratio outside [0, 1).
    """
    order = scores.argsort(descending=True, stable=True)
    return order[kept(len(scores), ratio) :]


def check_whole(model: Magic141Transformer3DModel) -> None:
    """Raises InputError where `model` is pruned already: its importance, and the ratio, would mean something else."""
    check_dense(model, "prune")
    names = ("pruned_ratio", "pruned_mlp_ratio", "pruned_blocks")
    if any(model.config[name] for name in names):
        was = ", ".join(f"{name}={model.config[name]}" for name in names)
        raise InputError(f"the model is pruned already ({was}): prune the dense model that it was made from")


def rebuilt(
    model: Magic141Transformer3DModel, state: dict[str, Tensor], changes: dict[str, object]
) -> Magic141Transformer3DModel:
    """A model with weights of its own, of the config of `model` with these changes."""
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    with torch.device("meta"):
        pruned = type(model)(**(config | changes))
    pruned.load_state_dict({key: tensor.clone() for key, tensor in state.items()}, assign=True)
    return pruned.train(model.training)
