"""Stage `t2i`: the transformer learns first frames from captions. A first frame is a one-frame video."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from magic141.train.flow import OBJECT_WEIGHT, Denoiser, Sampler
from magic141.train.latents import LatentSet
from magic141.train.loop import Progressed, Settings, autocast, fit

SHIFT = 3.0
"""Of the training times. Shapes are decided at t between 0.5 and 0.9: with a shift of 1, the first weights drew 94 % of
shapes right from true pictures noised to t = 0.3, 83 % from 0.5, 51 % from 0.7, and 27 % from noise."""
WEIGHTED_STEPS = 500
"""From scratch, the weight of objects fades to none over these: nothing else finds small objects so early."""


def train(
    settings: Settings, sampler: Sampler, images: LatentSet, initial: Denoiser | None = None
) -> tuple[Denoiser, Progressed]:
    """Train from scratch, or from `initial`, and return the averaged denoiser, and what it saw."""
    torch.manual_seed(settings.seed)
    model = Denoiser()
    if initial is not None:
        model.load_state_dict(initial.state_dict())

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        batch = sampler.draw(images, settings.batch_size, generator, frames=1, known=0, image_tokens=False)
        early = 0.0 if initial is not None else max(0.0, 1 - step / WEIGHTED_STEPS)
        with autocast(settings.device):
            return model(batch, SHIFT, 0.0, generator, OBJECT_WEIGHT * early)

    if settings.compile:
        model.transformer.compile(dynamic=False)
    average, seen = fit(model, loss, replace(settings, out=settings.out / "t2i"))
    return average.eval(), seen
