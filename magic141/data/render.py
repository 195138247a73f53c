"""Draws scenes: static background once, texture in motion over it, objects by signed distance inside their boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from magic141.data.factors import BACKGROUNDS, CAMERAS, FRAME_SIZE, RADII, SHAPES
from magic141.data.hashing import uniform
from magic141.data.motion import Truth
from magic141.data.textures import TEXTURE_FIELDS, sample
from magic141.data.world import Scene

INKS = (
    (230, 40, 40),
    (250, 140, 20),
    (250, 225, 50),
    (50, 190, 60),
    (40, 210, 220),
    (50, 80, 235),
    (140, 50, 190),
    (250, 120, 190),
)
_DARK = ((52, 52, 56), (34, 44, 84), (34, 64, 44), (74, 54, 38))
_PALE = ((205, 205, 208), (182, 200, 228), (190, 218, 190), (224, 204, 178))
_LIGHT_VEIL, _DARK_VEIL = (225, 228, 235), (70, 74, 90)
_SHADE = 42.0
"""By how much the second tone of a background differs from its first, in grey levels."""
_VEIL = 0.6
"""Opacity of a texture where its field is 1."""
_BOX = 32
"""Side of the box an object is drawn in: holds the largest radius, pulsing, with its antialiased edge."""


def render(
    scenes: Sequence[Scene],
    num_frames: int = 33,
    start: int | Sequence[int] = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Frames `start` … of each scene, uint8 (B, T, 64, 64, 3). `start` is one number, or one a scene."""
    starts, truths = _truths(scenes, num_frames, start)
    frames = torch.tensor(starts)[:, None] + torch.arange(num_frames)
    camera = torch.from_numpy(np.stack([truth.camera for truth in truths])).float().to(device)
    video = _background(scenes, camera, device)
    _veil(video, scenes, frames.to(device))
    _draw_objects(video, scenes, truths)
    return video.permute(0, 1, 3, 4, 2).round_().to(torch.uint8)


def masks(
    scenes: Sequence[Scene],
    num_frames: int = 33,
    start: int | Sequence[int] = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Where objects are, bool (B, T, 64, 64)."""
    _, truths = _truths(scenes, num_frames, start)
    cover = torch.zeros(len(scenes), num_frames, 1, FRAME_SIZE, FRAME_SIZE, device=device)
    _draw_objects(cover, scenes, truths, ink=torch.ones(1))
    return cover[:, :, 0] > 0.5


def _truths(
    scenes: Sequence[Scene], num_frames: int, start: int | Sequence[int]
) -> tuple[list[int], list[Truth]]:
    """The first frame of each scene, and what is where from there on."""
    starts = [start] * len(scenes) if isinstance(start, int) else list(start)
    return starts, [scene.truth(num_frames, first) for scene, first in zip(scenes, starts, strict=True)]


def _draw_objects(
    canvas: Tensor, scenes: Sequence[Scene], truths: Sequence[Truth], ink: Tensor | None = None
) -> None:
    """Objects on `canvas` (B, T, C, 64, 64), in their colours unless `ink` (C,) is given."""
    for depth in (1, 0):  # the subject last, so that nothing covers it
        rows = [row for row, truth in enumerate(truths) if truth.positions.shape[1] > depth]
        if rows:
            looks = [scenes[row].late if depth else scenes[row].subject for row in rows]
            inks = None if ink is None else ink.expand(len(rows), -1)
            _stamp(canvas, rows, [truths[row] for row in rows], depth, looks, inks)


def _background(scenes: Sequence[Scene], camera: Tensor, device: torch.device | str) -> Tensor:
    """Static backgrounds drawn once, panned ones once a frame: float (B, T, 3, 64, 64) in [0, 255]."""
    video = torch.empty(len(scenes), camera.shape[1], 3, FRAME_SIZE, FRAME_SIZE, device=device)
    for kind in range(len(BACKGROUNDS)):
        for pan in range(len(CAMERAS)):
            rows = [
                row
                for row, scene in enumerate(scenes)
                if scene.backdrop.kind == kind and (scene.pan != (0.0, 0.0)) == bool(pan)
            ]
            if rows:
                group = [scenes[row] for row in rows]
                offset = camera[rows] if pan else camera[rows, :1]
                video[rows] = _shaded(group, _pattern(BACKGROUNDS[kind], group, offset))
    return video


def _pattern(kind: str, scenes: Sequence[Scene], offset: Tensor) -> Tensor:
    """How much of the second tone each pixel has: (B, T, 64, 64) in [0, 1], at camera offsets (B, T, 2)."""
    device = offset.device

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=device).view(-1, 1, 1, 1)

    grid = torch.arange(FRAME_SIZE, device=device) + 0.5
    x = grid + offset[..., 0, None]
    y = grid + offset[..., 1, None]
    angle = column([scene.backdrop.angle for scene in scenes])
    period = column([scene.backdrop.period for scene in scenes])
    phase_x = column([scene.backdrop.phase[0] for scene in scenes])
    phase_y = column([scene.backdrop.phase[1] for scene in scenes])
    if kind == "solid":
        return torch.zeros(*offset.shape[:2], FRAME_SIZE, FRAME_SIZE, device=device)
    if kind == "speckle":
        seed = torch.tensor([scene.seed for scene in scenes], device=device).view(-1, 1, 1, 1)
        cells = torch.arange(32 * 32, device=device).view(32, 32)
        field = uniform(seed, 77, cells).expand(-1, offset.shape[1], -1, -1)
        return torch.sigmoid(9.0 * (sample(field, x / 4.0, y / 4.0) - 0.55))
    along = x[..., None, :] * angle.cos() + y[..., None] * angle.sin()
    if kind == "gradient":
        return (0.5 + (along - FRAME_SIZE / 2 * (angle.cos() + angle.sin())) / 90.0).clamp(0, 1)
    waves = torch.sin(2 * math.pi * (along / period + phase_x))
    if kind == "checker":
        across = -x[..., None, :] * angle.sin() + y[..., None] * angle.cos()
        waves = waves * torch.sin(2 * math.pi * (across / period + phase_y)) * 2.0
    return (0.5 + waves * period / (2 * math.pi)).clamp(0, 1)  # one pixel of antialiasing at each edge


def _shaded(scenes: Sequence[Scene], pattern: Tensor) -> Tensor:
    """Pattern -> colours (B, T, 3, 64, 64): the second tone is nearer to middle grey than the first."""
    first = [(_PALE if scene.backdrop.tone else _DARK)[scene.backdrop.hue] for scene in scenes]
    shade = [-_SHADE if scene.backdrop.tone else _SHADE for scene in scenes]
    base = torch.tensor(first, device=pattern.device).float().view(-1, 1, 3, 1, 1)
    return base + torch.tensor(shade, device=pattern.device).view(-1, 1, 1, 1, 1) * pattern[:, :, None]


def _veil(video: Tensor, scenes: Sequence[Scene], frames: Tensor) -> None:
    """Blend each scene's moving texture over `video` in place: light over dark backgrounds, dark over pale ones."""
    for kind, texture in enumerate(TEXTURE_FIELDS, start=1):
        rows = [row for row, scene in enumerate(scenes) if scene.texture.kind == kind]
        if not rows:
            continue
        moving = [scenes[row].texture for row in rows]
        seed = torch.tensor([scenes[row].seed for row in rows], device=video.device)
        numbers = torch.tensor([(m.density, m.speed, m.angle) for m in moving], device=video.device)
        density, speed, angle = numbers.unbind(1)
        field = _VEIL * texture(seed, density, speed, angle, frames[rows])[:, :, None]
        ink = [_DARK_VEIL if scenes[row].backdrop.tone else _LIGHT_VEIL for row in rows]
        colour = torch.tensor(ink, device=video.device).float().view(-1, 1, 3, 1, 1)
        video[rows] = torch.lerp(video[rows], colour, field)


def _distance(shape: str, x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Signed distance in pixels (negative inside) of a shape of radius r around the origin, y pointing down."""
    if shape == "circle":
        return torch.hypot(x, y) - r
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.88 * r
    if shape == "triangle":
        slope = math.sqrt(3) / 2
        return torch.maximum(slope * x.abs() - 0.5 * y, y) - 0.58 * r
    if shape == "ring":
        return (torch.hypot(x, y) - 0.74 * r).abs() - 0.26 * r
    if shape == "cross":
        a, b = x.abs(), y.abs()
        return torch.minimum(torch.maximum(a - r, b - 0.32 * r), torch.maximum(a - 0.32 * r, b - r))
    # A five-pointed star: fold the plane into one tenth of a turn, then one straight edge from tip to notch.
    fifth = 2 * math.pi / 5
    angle = torch.remainder(torch.atan2(x, -y) + fifth / 2, fifth) - fifth / 2
    radius = torch.hypot(x, y)
    px, py = radius * angle.cos(), radius * angle.abs().sin()
    notch_x, notch_y = 0.48 * math.cos(fifth / 2), 0.48 * math.sin(fifth / 2)
    length = math.hypot(1 - notch_x, notch_y)
    return ((px - 1.15 * r) * notch_y + py * (1 - notch_x)) / length


def _stamp(
    video: Tensor, rows: list[int], truths: list[Truth], depth: int, looks: list, ink: Tensor | None = None
) -> None:
    """Draw object number `depth` of each truth into `video` (rows, T, C, 64, 64) in place."""
    device = video.device
    colour = torch.tensor([INKS[look.colour] for look in looks]).float() if ink is None else ink
    centre = torch.from_numpy(np.stack([truth.positions[:, depth] for truth in truths])).float().to(device)
    radius = torch.from_numpy(np.stack([truth.radii[:, depth] for truth in truths])).float().to(device)
    t = centre.shape[1]
    corner = (centre - _BOX / 2).floor().long().clamp(0, FRAME_SIZE - _BOX)
    cell = torch.arange(_BOX, device=device)
    px, py = corner[..., 0, None] + cell, corner[..., 1, None] + cell
    x = (px + 0.5 - centre[..., 0, None])[..., None, :].expand(-1, -1, _BOX, -1)
    y = (py + 0.5 - centre[..., 1, None])[..., None].expand(-1, -1, -1, _BOX)
    r = radius[..., None, None]
    for shape in range(len(SHAPES)):
        some = [i for i, look in enumerate(looks) if look.shape == shape]
        if not some:
            continue
        distance = _distance(SHAPES[shape], x[some], y[some], r[some])
        alpha = (0.5 - distance).clamp(0, 1) * (r[some] > 0)
        row = torch.tensor([rows[i] for i in some], device=device).view(-1, 1, 1, 1)
        frame = torch.arange(t, device=device).view(1, -1, 1, 1)
        where = (row, frame, slice(None), py[some][..., None], px[some][..., None, :])
        under = video[where]
        paint = colour[some].to(device).view(-1, 1, 1, 1, under.shape[-1])
        video[where] = torch.lerp(under, paint, alpha[..., None])


assert max(RADII) * 1.3 + 1 <= _BOX / 2, "the largest object does not fit its box"
