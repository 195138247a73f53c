"""After pruning, the layers that read what is left are solved anew, to say what they said of the whole.

Layer by layer, least squares of the dense layer's outputs on the inputs that its pruned counterpart sees in the pruned
model (as in ThiNet, arXiv 1707.06342, section 3.3, and, for transformers, OSSCAR, arXiv 2403.12983): later layers also
mend what earlier ones have lost. No gradients; a minute, where training takes hours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn as nn
from torch import Tensor

from magic141.errors import InputError
from magic141.sparsify import Calibration
from magic141.sparsify.groups import sites
from magic141.sparsify.structured import Stays
from magic141.transformer import Magic141Transformer3DModel

RIDGE = 1e-3
"""Weight, relative to the mean square of an input, of staying where the weights are: what data leave open stays."""


class _Enough(Exception):
    """A forward pass has reached the layer that it was run for."""


@torch.no_grad()
def refit(
    pruned: Magic141Transformer3DModel,
    dense: Magic141Transformer3DModel,
    stays: Stays,
    calibration: Calibration,
) -> None:
    """Change `pruned` in place, which has what `stays` of `dense`, by the batches of `calibration`.

    Raises InputError: there is no calibration to go by.
    """
    batches = list(calibration)
    if not batches:
        raise InputError("refit needs calibration: pass at least one batch's loss function")
    names = {layer: name for name, layer in dense.named_modules()}
    for layer in dict.fromkeys(reader.layer for site in sites(dense) for reader in site.readers):
        small: nn.Linear = pruned.get_submodule(names[layer])
        # A layer may have lost outputs as well.
        rows = stays.get((f"{names[layer]}.weight", 0), slice(None))
        width = small.in_features + 1
        inputs = torch.zeros(width, width, dtype=torch.float64, device=small.weight.device)
        products = torch.zeros(width, small.out_features, dtype=torch.float64, device=small.weight.device)
        for loss in batches:
            for x, y in zip(_seen(small, loss, pruned, 0), _seen(layer, loss, dense, 1), strict=True):
                with_bias = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
                inputs += with_bias.T @ with_bias
                products += with_bias.T @ y[:, rows]
        if inputs.any():  # a layer that no batch uses stays as it is
            solve(small, inputs, products)


def solve(layer: nn.Linear, inputs: Tensor, products: Tensor) -> None:
    """Set the weights and the bias of `layer` to the ridge regression of y on (x, 1), from (x, 1)^T (x, 1) and
    (x, 1)^T y, both float64, towards what they are.
    """
    before = torch.cat([layer.weight, layer.bias[:, None]], dim=1).double().T
    ridge = RIDGE * inputs.diagonal().mean() * torch.eye(len(inputs)).to(inputs)
    found = torch.linalg.solve(inputs + ridge, products + ridge @ before).T
    layer.weight.copy_(found[:, :-1])
    layer.bias.copy_(found[:, -1])


def _seen(
    layer: nn.Linear, loss: Callable[..., Tensor], model: Magic141Transformer3DModel, which: int
) -> list[Tensor]:
    """(rows, width) in float64: the input (0) or the output (1) of `layer` at its one call in `loss(model)`, which ends
    there; nothing where it is not called.
    """
    found: list[Tensor] = []

    def watch(_: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        found.append((args[0], output)[which].double().flatten(0, -2))
        raise _Enough

    handle = layer.register_forward_hook(watch)
    try:
        loss(model)
    except _Enough:
        pass
    finally:
        handle.remove()
    return found
