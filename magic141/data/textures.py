"""Stochastic textures in motion: many hidden unknowns at once, each evolving by a known law.

Every function maps per-scene tensors to an opacity field (B, T, 64, 64) in [0, 1]. Detail is never finer than about
3 pixels, so that an autoencoder that compresses 8 x 8 x 4 can carry it. Time enters in closed form: any frame can be
drawn without those before it, and sequences have no end.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from magic141.data.factors import FRAME_SIZE
from magic141.data.hashing import normal, uniform

Texture = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(seed (B,), density (B,), speed (B,), angle (B,), frames (B, T)) -> opacity (B, T, 64, 64)."""


def _splat(
    x: Tensor, y: Tensor, weight: Tensor, width: Tensor | float, height: Tensor | float, half: int
) -> Tensor:
    """Sum of Gaussian blobs at (x, y), each (B, T, N), with standard deviations in pixels, in boxes of 2 half + 1."""
    b, t, _n = x.shape
    reach = torch.arange(-half, half + 1, device=x.device)
    ix, iy = x.floor().long(), y.floor().long()
    px, py = ix[..., None] + reach, iy[..., None] + reach
    gx = torch.exp(-0.5 * ((px - x[..., None]) / width) ** 2) * ((px >= 0) & (px < FRAME_SIZE))
    gy = torch.exp(-0.5 * ((py - y[..., None]) / height) ** 2) * ((py >= 0) & (py < FRAME_SIZE))
    blob = (gy * weight[..., None])[..., :, None] * gx[..., None, :]
    size = FRAME_SIZE * FRAME_SIZE
    frame = (torch.arange(b * t, device=x.device) * size).view(b, t, 1, 1, 1)
    index = (
        frame
        + py.clamp(0, FRAME_SIZE - 1)[..., :, None] * FRAME_SIZE
        + px.clamp(0, FRAME_SIZE - 1)[..., None, :]
    )
    field = torch.zeros(b * t * size, device=x.device)
    field.index_add_(0, index.reshape(-1), blob.reshape(-1))
    return field.view(b, t, FRAME_SIZE, FRAME_SIZE)


def _count(most: int, density: Tensor) -> Tensor:
    """Weight (B, 1, N) that keeps density / 1.4 of `most` particles."""
    return (torch.arange(most, device=density.device) < (most * density[:, None] / 1.4))[:, None].float()


def _falling(seed: Tensor, most: int, speed: Tensor, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Particles that fall through the frame and enter again elsewhere: x, y, cycle, each (B, T, N)."""
    particle = torch.arange(most, device=seed.device)[None, None]
    owner = seed[:, None, None]
    height = FRAME_SIZE + 8.0
    fall = uniform(owner, particle, 3) * height + frames[..., None] * speed
    cycle = (fall / height).floor().long()
    x = uniform(owner, particle, 4, cycle) * (FRAME_SIZE + 24) - 12
    return x, fall - cycle * height - 4.0, cycle


def snow(seed: Tensor, density: Tensor, speed: Tensor, angle: Tensor, frames: Tensor) -> Tensor:
    """Flakes with speeds, sizes and sways of their own."""
    owner, most = seed[:, None, None], 34
    each = torch.arange(most, device=seed.device)[None, None]
    pace = 0.75 * speed[:, None, None] * (0.6 + 0.8 * uniform(owner, each, 0))
    x, y, cycle = _falling(seed, most, pace, frames)
    sway = 2.5 * torch.sin(2 * math.pi * (frames[..., None] / 26.0 + uniform(owner, each, 1, cycle)))
    width = 1.4 + 0.5 * uniform(owner, each, 2)[..., None]
    return _splat(x + sway + y * angle[:, None, None], y, _count(most, density), width, width, 4).clamp(
        max=1.0
    )


def rain(seed: Tensor, density: Tensor, speed: Tensor, angle: Tensor, frames: Tensor) -> Tensor:
    """Streaks that fall fast."""
    owner, most = seed[:, None, None], 30
    each = torch.arange(most, device=seed.device)[None, None]
    pace = 1.9 * speed[:, None, None] * (0.8 + 0.4 * uniform(owner, each, 0))
    x, y, _ = _falling(seed, most, pace, frames)
    return _splat(x + y * angle[:, None, None], y, _count(most, density), 1.3, 3.0, 7).clamp(max=1.0)


def ripples(seed: Tensor, density: Tensor, speed: Tensor, angle: Tensor, frames: Tensor) -> Tensor:
    """Rings that spread from drops at random places and times. Drawn at half resolution: a ring is 5 pixels wide."""
    owner, most, life = seed[:, None, None], 7, 30.0
    each = torch.arange(most, device=seed.device)[None, None]
    clock = frames[..., None] / life + uniform(owner, each, 0)
    cycle = clock.floor().long()
    age = (clock - cycle)[..., None, None]
    x = uniform(owner, each, 1, cycle)[..., None, None] * FRAME_SIZE
    y = uniform(owner, each, 2, cycle)[..., None, None] * FRAME_SIZE
    grid = torch.arange(0.5, FRAME_SIZE, 2.0, device=seed.device) + 0.5
    distance = torch.sqrt((grid - x) ** 2 + (grid[:, None] - y) ** 2 + 1e-4)
    radius = 22.0 * speed[:, None, None, None, None] * age
    ring = (
        torch.exp(-0.5 * ((distance - radius) / 2.0) ** 2)
        * (1 - age)
        * _count(most, density)[..., None, None]
    )
    field = ring.sum(2).clamp(max=1.0)
    return F.interpolate(field, scale_factor=2, mode="bilinear", align_corners=False)


def _keyed(seed: Tensor, frames: Tensor, period: Tensor, side: int) -> Tensor:
    """Random fields (B, T, side, side) that pass from one independent field to the next in `period` frames.

    The blend runs along a quarter circle, so that the variance stays 1.
    """
    clock = frames / period[:, None] + uniform(seed, 9)[:, None]
    key = clock.floor().long()
    cell = torch.arange(side * side, device=seed.device).view(side, side)
    first = int(key.min())
    keys = torch.arange(first, int(key.max()) + 2, device=seed.device)
    table = normal(seed[:, None, None, None], keys[None, :, None, None], cell)
    row = torch.arange(len(seed), device=seed.device)[:, None]
    blend = ((clock - key) * (math.pi / 2))[..., None, None]
    return torch.cos(blend) * table[row, key - first] + torch.sin(blend) * table[row, key - first + 1]


def clouds(seed: Tensor, density: Tensor, speed: Tensor, angle: Tensor, frames: Tensor) -> Tensor:
    """Soft patches that drift and change shape."""
    side = 14
    field = _keyed(seed, frames, 20.0 / speed, side)
    b, t = frames.shape
    shift = frames * speed[:, None] * 0.35
    # The lattice wraps: sampling moves over it with the wind, 10 pixels a cell.
    grid = torch.arange(FRAME_SIZE // 2, device=seed.device) * 2.0
    u = (grid[None, None] + shift[..., None]) / 10.0
    v = (grid[None, None] + shift[..., None] * angle[:, None, None]) / 10.0
    field = sample(field, u, v)
    cover = torch.sigmoid(2.5 * (field - 1.0 + 0.6 * density[:, None, None, None]))
    return F.interpolate(
        cover.view(b, t, *cover.shape[-2:]), scale_factor=2, mode="bilinear", align_corners=False
    )


def sample(field: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Bilinear look-up with wrap-around: field (B, T, S, S) at columns u (B, T, W) and rows v (B, T, H)."""
    side = field.shape[-1]

    def weights(place: Tensor) -> Tensor:
        base = place.floor()
        cell = torch.arange(side, device=field.device)
        low = (torch.remainder(base, side).long()[..., None] == cell).float()
        frac = (place - base)[..., None]
        return (1 - frac) * low + frac * low.roll(1, -1)

    return weights(v) @ field @ weights(u).transpose(-1, -2)


def shimmer(seed: Tensor, density: Tensor, speed: Tensor, angle: Tensor, frames: Tensor) -> Tensor:
    """Grain whose every grain changes on its own."""
    side = 16
    field = _keyed(seed, frames, 7.0 / speed, side)
    place = torch.arange(FRAME_SIZE, device=seed.device).expand(*frames.shape, FRAME_SIZE) / 4.5
    value = sample(field, place, place)
    return torch.sigmoid(3.0 * (value - 0.9 + 0.4 * density[:, None, None, None]))


def swarm(seed: Tensor, density: Tensor, speed: Tensor, angle: Tensor, frames: Tensor) -> Tensor:
    """Dots that each wander on a path of two circles."""
    owner, most = seed[:, None, None], 26
    each = torch.arange(most, device=seed.device)[None, None]
    clock = frames[..., None] * speed[:, None, None] * 2 * math.pi
    x = uniform(owner, each, 0) * FRAME_SIZE
    y = uniform(owner, each, 1) * FRAME_SIZE
    for turn, reach in ((2, 9.0), (6, 4.0)):
        rate = (uniform(owner, each, turn) - 0.5) * 2 / (2.6 * reach)
        phase = 2 * math.pi * uniform(owner, each, turn + 1)
        x = x + reach * torch.cos(clock * rate + phase)
        y = y + reach * torch.sin(clock * rate + phase)
    return _splat(x, y, _count(most, density), 1.6, 1.6, 4).clamp(max=1.0)


TEXTURE_FIELDS: tuple[Texture, ...] = (snow, rain, ripples, clouds, shimmer, swarm)
"""In the order of factors.TEXTURES, without its first, `none`."""
