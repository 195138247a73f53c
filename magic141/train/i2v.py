"""Stage `i2v`: from the text-to-image checkpoint, the transformer learns to continue a first frame.

One set of weights learns four tasks, told apart by the mask: first frame given (image-to-video), the first few latent
frames of a window given (continuation), nothing given (text-to-video), and single images, so that it keeps its craft.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from magic141.train.flow import Batch, Denoiser, Sampler, noised_tokens
from magic141.train.latents import LatentSet
from magic141.train.loop import Progressed, Settings, autocast, fit

SHIFT = 3.0
"""As for images: where objects go is decided early, as their shapes are."""
CONDITION_NOISE = 0.3
"""The largest, on given frames."""
TOKEN_NOISE = 0.2
"""On image tokens."""
FRAMES = 9
IMAGES_PER_CLIP = 4
"""A batch of images is this many times larger than one of clips: it has as many fewer tokens."""
CYCLE = ("video", "inside", "video", "image", "text", "video", "inside", "video", "image", "video")
"""Tasks of consecutive batches. Images keep the craft that text-to-image learned, at four for the cost of a clip; what
takes longest to learn is motion, and only clips show it."""


Draw = Callable[[int, torch.Generator], Batch]
"""(step, generator of this step) -> batch."""


def drawing(sampler: Sampler, images: LatentSet, clips: LatentSet, long: LatentSet, batch_size: int) -> Draw:
    """Batches of the four tasks, which take turns as in `CYCLE`."""

    def draw(step: int, generator: torch.Generator) -> Batch:
        task = CYCLE[step % len(CYCLE)]
        if task == "image":
            count = batch_size * IMAGES_PER_CLIP
            return sampler.draw(images, count, generator, frames=1, known=0, image_tokens=False)
        if task == "text":
            return sampler.draw(clips, batch_size, generator, frames=FRAMES, known=0, image_tokens=False)
        if task == "inside":
            known = 1 + int(torch.randint(3, (), generator=generator))
            batch = sampler.draw(long, batch_size, generator, frames=FRAMES, known=known, inside=True)
        else:
            # Once in a while without image tokens, so that the multi-modal prior can be switched off.
            tokens = step % 40 != 0
            batch = sampler.draw(clips, batch_size, generator, frames=FRAMES, known=1, image_tokens=tokens)
        if batch.image_tokens is not None:
            batch = replace(batch, image_tokens=noised_tokens(batch.image_tokens, TOKEN_NOISE, generator))
        return batch

    return draw


def train(
    settings: Settings,
    sampler: Sampler,
    images: LatentSet,
    clips: LatentSet,
    long: LatentSet,
    initial: Denoiser,
) -> tuple[Denoiser, Progressed]:
    """Train from `initial` and return the averaged denoiser, and what it saw."""
    torch.manual_seed(settings.seed)
    model = Denoiser()
    model.load_state_dict(initial.state_dict())
    if settings.compile:
        model.transformer.compile(dynamic=False)
    draw = drawing(sampler, images, clips, long, settings.batch_size)

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        batch = draw(step, generator)
        with autocast(settings.device):
            terms = model(batch, SHIFT, CONDITION_NOISE, generator)
        return terms

    average, seen = fit(model, loss, replace(settings, out=settings.out / "i2v"))
    return average.eval(), seen
