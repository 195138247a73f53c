"""How much the model would miss a head, a hidden unit or a block: three criteria to compare.

All look at the layers that read a group (for a block: that write its result), with columns W_c and inputs x_c:

    magnitude    L2 norm of all weights of the group
    activation   sum over columns of mean|x_c| * |W_c|           (Wanda, arXiv 2306.11695, for groups)
    taylor       mean over batches of (sum over columns of W_c . dL/dW_c)^2   (arXiv 1906.10771, equation 8: the
                 square of the derivative of the loss by a gate on the group, since the reader is linear in it)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from magic141.errors import InputError
from magic141.sparsify import CRITERIA, Calibration
from magic141.sparsify.groups import Site, blocks, check_dense, sites
from magic141.transformer import Magic141Transformer3DModel


@dataclass(frozen=True)
class Importance:
    """`groups`: a score (count,) of each group of a site, by its name. `blocks`: of each block, by its name."""

    groups: dict[str, Tensor]
    blocks: dict[str, float]


def measure(model: Magic141Transformer3DModel, criterion: str, calibration: Calibration = ()) -> Importance:
    """Importance by one of `CRITERIA`; all but "magnitude" run `calibration` once. Leaves no gradients behind.

    Raises:
        InputError: the criterion is unknown or has no calibration to go by, or the model is quantised.
    """
    check_dense(model, "prune")
    if criterion == "magnitude":
        return _magnitude(model)
    if criterion not in CRITERIA:
        raise InputError(f"criterion={criterion!r} is unknown; use one of {', '.join(CRITERIA)}")
    found = _activation(model, calibration) if criterion == "activation" else _taylor(model, calibration)
    if found is None:
        raise InputError(
            f"criterion {criterion!r} needs calibration: pass at least one batch's loss function"
        )
    return found


def _magnitude(model: Magic141Transformer3DModel) -> Importance:
    columns = {layer: layer.weight.detach().float().square().sum(0).cpu() for layer in _readers(model)}
    groups = {site.name: (_rows(site) + _columns(site, columns)).sqrt() for site in sites(model)}
    whole = {
        name: sum(_squares(layer, 0).sum().item() for layer in _linears(model.get_submodule(name))) ** 0.5
        for name in blocks(model)
    }
    return Importance(groups, whole)


@torch.no_grad()
def _activation(model: Magic141Transformer3DModel, calibration: Calibration) -> Importance | None:
    readers = _readers(model)
    totals: dict[nn.Module, Tensor] = {
        layer: torch.zeros(layer.in_features, dtype=torch.float64) for layer in readers
    }
    seen = 0

    def watch(layer: nn.Module, args: tuple[Tensor]) -> None:
        totals[layer] += args[0].detach().float().abs().flatten(0, -2).mean(0).cpu()

    handles = [layer.register_forward_pre_hook(watch) for layer in readers]
    try:
        for loss in calibration:
            loss(model)
            seen += 1
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        return None
    columns = {
        layer: totals[layer].float() / seen * layer.weight.float().norm(dim=0).cpu() for layer in readers
    }
    return Importance(
        {site.name: _columns(site, columns) for site in sites(model)},
        {name: sum(columns[layer].sum().item() for layer in of) for name, of in blocks(model).items()},
    )


def _taylor(model: Magic141Transformer3DModel, calibration: Calibration) -> Importance | None:
    readers = _readers(model)
    kept = [parameter for layer in readers for parameter in layer.parameters()]
    groups = {site.name: torch.zeros(site.count) for site in sites(model)}
    whole = dict.fromkeys(blocks(model), 0.0)
    seen = 0
    for loss in calibration:
        # A reader that a batch does not use has no gradient: without it the loss is what it was.
        with torch.enable_grad():
            grads = torch.autograd.grad(loss(model), kept, allow_unused=True)
        derivative: dict[Tensor, Tensor] = {
            parameter: torch.zeros_like(parameter) if grad is None else parameter.detach() * grad
            for parameter, grad in zip(kept, grads, strict=True)
        }
        columns = {layer: derivative[layer.weight].float().sum(0).cpu() for layer in readers}
        for site in sites(model):
            groups[site.name] += _columns(site, columns).square()
        for name, of in blocks(model).items():
            whole[name] += sum(derivative[p].sum().item() for layer in of for p in layer.parameters()) ** 2
        seen += 1
    if not seen:
        return None
    return Importance(
        {name: score / seen for name, score in groups.items()},
        {name: score / seen for name, score in whole.items()},
    )


def _rows(site: Site) -> Tensor:
    found = [_squares(part.layer, part.axis)[part.outputs()].sum(1) for part in site.writers]
    return torch.stack(found).sum(0)


def _columns(site: Site, values: dict[nn.Linear, Tensor]) -> Tensor:
    return torch.stack([values[part.layer][part.inputs()].sum(1) for part in site.readers]).sum(0)


def _squares(layer: nn.Linear | nn.Embedding, axis: int) -> Tensor:
    """Along `axis` of its weight, which holds a layer's outputs: squares of the weights of each, and of its bias."""
    weights = layer.weight.detach().float().square().sum(1 - axis)
    bias = getattr(layer, "bias", None)
    return (weights if bias is None else weights + bias.detach().float().square()).cpu()


def _readers(model: Magic141Transformer3DModel) -> list[nn.Linear]:
    return list(dict.fromkeys(part.layer for site in sites(model) for part in site.readers))


def _linears(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
