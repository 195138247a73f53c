"""Muon (Jordan et al. 2024): momentum whose every matrix is made orthogonal before it is applied.

`torch.optim.Muon` takes matrices only and iterates in bfloat16 everywhere; where a CPU emulates bfloat16, one of its
steps takes longer than the pass through the model. This one takes weights of any rank, and iterates in float32 there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from magic141.precision import native_bfloat16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic: steepest at zero, so that five iterations bring singular values between about 0.7 and 1.2."""
ITERATIONS = 5


def orthogonal(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """About U V^T of matrix = U S V^T, by Newton-Schulz iterations in `dtype`."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(dtype)
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, with decoupled weight decay.

    A weight of higher rank, as a convolution's, is taken as (out, everything else). Updates are scaled to the root
    mean square of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that learning rates mean the same for both.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                dtype = torch.bfloat16 if weight.is_cuda or native_bfloat16() else torch.float32
                update = weight.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                scale = 0.2 * max(update.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(orthogonal(update, dtype).view_as(weight), alpha=-group["lr"] * scale)
        return loss
