"""What importance by activation or Taylor expansion must know of data: losses on scenes of the lab world."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from magic141.pipeline import Magic141Pipeline
from magic141.scheduler import FewStepScheduler, interpolate
from magic141.train import i2v
from magic141.train.fields import field, step_times
from magic141.train.flow import Batch, Sampler, normal, times
from magic141.train.latents import CLIPS, IMAGES, LONG, WORLD, encode_sets
from magic141.transformer import Magic141Transformer3DModel

BATCHES = 10
"""One round of the tasks of stage `i2v`."""
SCENES = 32
"""Clips encoded when there are no latents yet: seconds, where a training set takes minutes."""

Losses = list[Callable[[Magic141Transformer3DModel], Tensor]]


def losses(pipe: Magic141Pipeline, steps: int | None = None, batch_size: int = 16) -> Losses:
    """Calibration of `pipe.transformer` on training scenes, for `magic141.sparsify.apply`: one loss a task.

    steps: of a student of few steps, at whose times it is asked; 4 unless given.
    """
    with tempfile.TemporaryDirectory() as folder:
        sets = encode_sets(
            Path(folder), (IMAGES, CLIPS, LONG), SCENES, WORLD, pipe.vae.eval(), pipe.text_encoder.eval()
        )
        sampler = Sampler(pipe.text_encoder, pipe.tokenizer, str(pipe.device))
        images, clips, long = (sets[spec.name] for spec in (IMAGES, CLIPS, LONG))
        batches = i2v.drawing(sampler, images, clips, long, batch_size)
        shown = first_batches(batches, BATCHES)
    few = isinstance(pipe.scheduler, FewStepScheduler)
    return losses_on(shown, step_times(steps or 4, pipe.scheduler.config.shift)[:-1] if few else None)


def first_batches(batches: i2v.Draw, count: int) -> list[Batch]:
    """The first `count` batches, the same at every call."""
    return [batches(step, torch.Generator().manual_seed(step)) for step in range(count)]


def losses_on(batches: list[Batch], fixed: Tensor | None = None, seed: int = 0) -> Losses:
    """Flow matching losses, one a batch; the same at every call."""

    def loss_on(batch: Batch, index: int) -> Callable[[Magic141Transformer3DModel], Tensor]:
        def flow(model: Magic141Transformer3DModel) -> Tensor:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
            t = draw_times(len(batch.latents), i2v.SHIFT, fixed, generator).to(batch.latents.device)
            eps = normal(batch.latents, generator)
            with torch.autocast(t.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16):
                v = field(model, batch)(interpolate(batch.latents, eps, t), t)
            return (v - (eps - batch.latents))[:, :, batch.known :].square().mean()

        return flow

    return [loss_on(batch, index) for index, batch in enumerate(batches)]


def draw_times(count: int, shift: float, fixed: Tensor | None, generator: torch.Generator) -> Tensor:
    """Times (count,): logit-normal and shifted, or drawn evenly from the `fixed` ones of few steps."""
    if fixed is None:
        return times(count, shift, generator)
    return fixed[torch.randint(len(fixed), (count,), generator=generator)]
