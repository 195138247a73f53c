"""Stage `vae`: the autoencoder learns to reconstruct clips of the lab world."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from magic141.autoencoder import AutoencoderMagic141
from magic141.data.render import masks, render
from magic141.data.world import World
from magic141.train.loop import Progressed, Settings, autocast, fit

OBJECT_WEIGHT = 12.0
"""Extra weight of pixels in the dilated object mask: objects are 5 % of the picture and most of its meaning."""
LATENT_NOISE = 0.1
"""Standard deviation of noise on the whitened latents: a smooth space is easier to denoise in."""


def to_model(frames: Tensor) -> Tensor:
    """uint8 (B, T, H, W, 3) -> float (B, 3, T, H, W) in [-1, 1]."""
    return frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0


def to_uint8(video: Tensor) -> Tensor:
    """Float (B, 3, T, H, W) in [-1, 1] -> uint8 (B, T, H, W, 3)."""
    return ((video.float().clamp(-1, 1) + 1.0) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1)


def dilated(mask: Tensor, reach: int = 2) -> Tensor:
    """Object masks (B, T, H, W) grown by `reach` pixels, as float (B, 1, T, H, W)."""
    return F.max_pool2d(mask.float(), 2 * reach + 1, stride=1, padding=reach)[:, None]


def train(settings: Settings) -> tuple[AutoencoderMagic141, Progressed]:
    """Train and return the averaged autoencoder, and what it saw.

    Crops alternate between starts of clips and continuations.
    """
    torch.manual_seed(settings.seed)
    model = AutoencoderMagic141().to(memory_format=torch.channels_last)
    world = World(moving_texture=0.8)

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        first = step * settings.batch_size
        scenes = world.scenes("train", first, settings.batch_size)
        start = step % 2 == 0
        offset = 0 if start else int(torch.randint(1, 80, (), generator=generator))
        frames = 9 if start else 12
        video = to_model(render(scenes, frames, offset, settings.device))
        weight = 1.0 + OBJECT_WEIGHT * dilated(masks(scenes, frames, offset, settings.device))
        noise = LATENT_NOISE * torch.randn(len(video), 16, 3, 8, 8, generator=generator)
        with autocast(settings.device):
            error = model(video, start, noise.to(settings.device)).float() - video
        squared = error.square()
        inside = weight.gt(1).expand_as(squared)
        return {
            "loss": (weight * (squared + 0.1 * error.abs())).mean(),
            "psnr": _decibel(squared.detach()),
            "psnr_object": _decibel(squared.detach()[inside]),
        }

    average, seen = fit(model, loss, replace(settings, out=settings.out / "vae"))
    return average.eval(), seen


def _decibel(squared: Tensor) -> Tensor:
    return 10 * torch.log10(4.0 / squared.mean())
