"""Stage `t2i`: the transformer learns first frames from captions. A first frame is a one-frame video."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from magic141.train.flow import Denoiser, Sampler
from magic141.train.latents import LatentSet
from magic141.train.loop import Progressed, Settings, fit

SHIFT = 1.0


def train(settings: Settings, sampler: Sampler, images: LatentSet) -> tuple[Denoiser, Progressed]:
    """Train from scratch and return the averaged denoiser, and what it saw."""
    torch.manual_seed(settings.seed)
    model = Denoiser()

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        batch = sampler.draw(images, settings.batch_size, generator, frames=1, known=0, image_tokens=False)
        with torch.autocast("cpu", torch.bfloat16):
            return model(batch, SHIFT, 0.0, generator)

    average, seen = fit(model, loss, replace(settings, out=settings.out / "t2i"))
    return average.eval(), seen
