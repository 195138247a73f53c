"""Stage `recover`: a pruned transformer learns to say what the dense one says, which it was made from.

Distillation of the output alone, which suffices where depth is kept (Muralidharan et al. 2024, arXiv 2407.14679): of
velocities on stored latents, at the times at which the model is asked. The flow matching loss beside it keeps the data
in sight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from magic141.scheduler import interpolate
from magic141.train.fields import Field, draw, field
from magic141.train.flow import Batch, times
from magic141.train.loop import Progressed, Settings, autocast, fit
from magic141.transformer import Magic141Transformer3DModel

Draw = Callable[[int, torch.Generator], Batch]
"""(step, generator of this step) -> batch."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """`shift` of the training times; `step_times` instead of them, where the dense model is a student of few steps.

    flow: weight of the flow matching loss. 0 for such a student, whose velocities are not those of the data.
    """

    shift: float = 2.0
    flow: float = 0.1
    step_times: tuple[float, ...] = ()


def loss(
    pruned: Field, dense: Field, x0: Tensor, known: int, recipe: Recipe, generator: torch.Generator
) -> dict[str, Tensor]:
    """Mean squares of `pruned - dense` and `pruned - (eps - x0)` at noised data x0 (B, 16, t, h, w), unknown frames."""
    t = asked(len(x0), recipe, generator).to(x0.device)
    eps = draw(x0, generator)
    x_t = interpolate(x0, eps, t)
    with torch.no_grad():
        aim = dense(x_t, t)
    v = pruned(x_t, t)
    distil, flow = ((v - other)[:, :, known:].square().mean() for other in (aim, eps - x0))
    return {"loss": distil + recipe.flow * flow, "distil": distil.detach(), "flow": flow.detach()}


def asked(count: int, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Times (count,): logit-normal and shifted, or drawn evenly from those of the few steps."""
    if not recipe.step_times:
        return times(count, recipe.shift, generator)
    place = torch.randint(len(recipe.step_times), (count,), generator=generator)
    return torch.tensor(recipe.step_times)[place]


def calibration(
    batches: Iterable[Batch], recipe: Recipe, seed: int = 0
) -> list[Callable[[Magic141Transformer3DModel], Tensor]]:
    """Flow matching losses for `magic141.sparsify.apply`, one a batch; the same at every call."""

    def loss_on(batch: Batch, index: int) -> Callable[[Magic141Transformer3DModel], Tensor]:
        def flow(model: Magic141Transformer3DModel) -> Tensor:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
            t = asked(len(batch.latents), recipe, generator).to(batch.latents.device)
            eps = draw(batch.latents, generator)
            v = field(model, batch)(interpolate(batch.latents, eps, t), t)
            return (v - (eps - batch.latents))[:, :, batch.known :].square().mean()

        return flow

    return [loss_on(batch, index) for index, batch in enumerate(batches)]


def train(
    settings: Settings,
    batches: Draw,
    dense: Magic141Transformer3DModel,
    pruned: Magic141Transformer3DModel,
    recipe: Recipe,
) -> tuple[Magic141Transformer3DModel, Progressed]:
    """Train `pruned` in place towards `dense`; returns the average of its weights, and what it saw."""
    torch.manual_seed(settings.seed)
    dense.to(settings.device)

    def step_loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        batch = batches(step, generator)
        with autocast(settings.device):
            return loss(
                field(pruned, batch), field(dense, batch), batch.latents, batch.known, recipe, generator
            )

    average, seen = fit(pruned, step_loss, replace(settings, out=settings.out / "recover"))
    return average.eval(), seen
