"""What the judge learns from: truth of scenes as tensors, mild corruptions, and the band energies of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evals.catalogue import ATTRIBUTES, CENTRES, JUDGED_FRAMES
from evals.judges import to_pixels
from magic141.data.factors import BACKGROUNDS, FRAME_SIZE, TEXTURES
from magic141.data.render import render
from magic141.data.world import Scene

_CENTRES = np.array(CENTRES)
BANDS = 8
STATES = 31
_STILL_WHEN_FROZEN = ("motion", "direction", "texture", "camera")


@dataclass
class Batch:
    """Clips as the judge sees them, with what it should say.

    video: (B, 32, 64, 64, 3) in [-1, 1], corrupted. image: (B, 64, 64, 3), frame 0. labels: attribute -> (B,), -1 to
    ignore. track: (B, 8, 2) in [-1, 1], NaN to ignore; detections: the same where the subject is alone in view.
    state: (B, STATES), NaN to ignore; see `_state`. bands: (B, BANDS), see `band_energies`.
    """

    video: Tensor
    image: Tensor
    labels: dict[str, Tensor]
    track: Tensor
    detections: Tensor
    state: Tensor
    bands: Tensor


def _state(scene: Scene, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Track (8, 2) and the rest of the state (15,) of a window that begins at `start`; NaN where undefined."""
    truth = scene.truth(JUDGED_FRAMES + 1, start)
    track = truth.positions[_CENTRES, 0] / (FRAME_SIZE / 2) - 1

    def where(names: tuple[str, ...], value: str, numbers: Sequence[float]) -> list[float]:
        return list(numbers) if value in names else [np.nan] * len(numbers)

    backdrop, texture = scene.backdrop, scene.texture
    kind, moving = BACKGROUNDS[backdrop.kind], TEXTURES[texture.kind]
    across = np.array([np.cos(backdrop.angle), np.sin(backdrop.angle)])
    phase = (
        2
        * np.pi
        * ((truth.camera[_CENTRES[0]] + FRAME_SIZE / 2) @ across / backdrop.period + backdrop.phase[0])
    )
    turn = (2 if kind != "checker" else 4) * backdrop.angle
    speed = np.linalg.norm(truth.velocity[:, 0], axis=-1).mean()
    rest = [
        speed - 1.0,
        *scene.pan,
        *where(("stripes", "gradient"), kind, [np.cos(turn), np.sin(turn)]),
        *where(("checker",), kind, [np.cos(turn), np.sin(turn)]),
        *where(("stripes", "checker"), kind, [(backdrop.period - 14) / 2]),
        *where(("stripes",), kind, [np.cos(phase), np.sin(phase)]),
        *where(TEXTURES[1:], moving, [(texture.density - 1) * 3, (texture.speed - 1) * 3]),
        *where(("snow", "rain"), moving, [texture.angle * 3]),
        float(truth.visible[-1, 1:].any()),
        float(truth.radii[:, 0].std()) / 2,
    ]
    return track, np.array(rest)


def band_energies(video: Tensor) -> Tensor:
    """log10 of luminance energies of (B, T, H, W, 3) at half resolution: (B, BANDS).

    Two spatial bands (the finer one also late in the clip), differences over 1 and 4 frames (the former also of fine
    detail, and late in the clip), and second differences: blur, thinning, freezing and flicker each move some of them.
    """
    b, t = video.shape[:2]
    half = F.avg_pool2d(video.mean(dim=-1).flatten(0, 1)[:, None], 2)
    soft = F.avg_pool2d(half, 3, 1, 1, count_include_pad=False)
    softer = F.avg_pool2d(soft, 5, 1, 2, count_include_pad=False)
    fine, coarse, half = (x.unflatten(0, (b, t))[:, :, 0] for x in (half - soft, soft - softer, half))
    step, late = half.diff(dim=1), t * 3 // 4
    lagged = half[:, 4:] - half[:, :-4]
    parts = [fine, coarse, fine[:, late:], step, lagged, fine.diff(dim=1), step[:, late:], step.diff(dim=1)]
    return torch.stack([part.square().mean(dim=(1, 2, 3)).add(1e-6).log10() for part in parts], dim=1)


def _smooth(clip: Tensor, dim: int, share: float) -> Tensor:
    """Replace a share of every pixel by the mean of its two neighbours along `dim`; edges repeat."""
    n = clip.shape[dim]
    inner = clip.narrow(dim, 0, n - 2) + clip.narrow(dim, 2, n - 2)
    smooth = clip.clone()
    smooth.narrow(dim, 1, n - 2).mul_(1 - share).add_(inner, alpha=share / 2)
    return smooth


def corrupt(clip: Tensor, generator: torch.Generator) -> Tensor:
    """Mild corruption of one clip or image (..., H, W, 3): what compression and imperfect generators do.

    Independently: blur (20 %; variance 0.2 to 1.3 px^2), half resolution (8 %), ghosting over neighbouring frames
    (10 %, clips), noise (15 %), brightness and contrast (30 %).
    """
    draw = torch.rand(10, generator=generator).tolist()
    if draw[0] < 0.2:
        for _ in range(1 + int(draw[1] * 2)):
            for dim in (-3, -2):
                clip = _smooth(clip, dim, 0.2 + 0.45 * draw[2])
    if draw[3] < 0.08:
        planes = clip.reshape(-1, *clip.shape[-3:]).permute(0, 3, 1, 2)
        planes = F.interpolate(F.avg_pool2d(planes, 2), scale_factor=2, mode="bilinear")
        clip = planes.permute(0, 2, 3, 1).reshape(clip.shape)
    if draw[4] < 0.1 and clip.ndim > 3:
        clip = _smooth(clip, -4, 0.5)
    if draw[5] < 0.15:
        clip = clip + (0.01 + 0.07 * draw[6]) * torch.randn(clip.shape, generator=generator)
    if draw[7] < 0.3:
        clip = clip * (0.85 + 0.25 * draw[8]) + (draw[9] - 0.5) * 0.16
    return clip.clamp(-1, 1)


def make_batch(scenes: Sequence[Scene], generator: torch.Generator, *, corrupted: bool = True) -> Batch:
    """Render scenes (three tenths of them from a random later frame) and gather their truth.

    Where a second object is in view from the start of a later window, which one is the subject cannot be seen: its
    labels are ignored. A few clips freeze on the way: what then no longer shows is ignored too.
    """
    b = len(scenes)
    later = torch.rand(b, generator=generator) < 0.3
    starts = (later * torch.randint(1, 65, (b,), generator=generator)).tolist()
    pixels = to_pixels(render(scenes, JUDGED_FRAMES + 1, starts))
    video, image = pixels[:, 1:], pixels[:, 0].clone()
    states = [_state(scene, start) for scene, start in zip(scenes, starts, strict=True)]
    track = torch.from_numpy(np.stack([t for t, _ in states])).float()
    rest = torch.from_numpy(np.stack([r for _, r in states])).float()
    table = [scene.labels(start) for scene, start in zip(scenes, starts, strict=True)]
    labels = {name: torch.tensor([row[name] for row in table]) for name in ATTRIBUTES}
    others = [
        scene.truth(JUDGED_FRAMES + 1, start).visible[:, 1:].any(axis=1)
        for scene, start in zip(scenes, starts, strict=True)
    ]
    company = torch.from_numpy(np.stack(others))
    for name in ("shape", "colour", "size", "motion", "direction"):
        labels[name][company[:, 0]] = -1
    track[company[:, 0]] = torch.nan
    detections = track.masked_fill(company[:, list(CENTRES), None], torch.nan)
    if corrupted:
        for row in range(b):
            if float(torch.rand(1, generator=generator)) < 0.06:
                stop = int(torch.randint(1, len(_CENTRES) - 1, (1,), generator=generator))
                video[row, _CENTRES[stop] - 1 :] = video[row, _CENTRES[stop] - 1].clone()
                seen = torch.arange(len(_CENTRES)).clamp(max=stop)
                track[row], detections[row] = track[row, seen], detections[row, seen]
                rest[row] = torch.nan
                for name in _STILL_WHEN_FROZEN:
                    labels[name][row] = -1
            video[row] = corrupt(video[row], generator)
            image[row] = corrupt(image[row], generator)
    state = torch.cat([track.flatten(1), rest], dim=1)
    return Batch(video, image, labels, track, detections, state, band_energies(video))
