"""The judge of the lab world: one small network in pixel space, trained on truth, that plays two separate roles.

*Judge*: heads that name every said factor of a clip, or of one image, and a tracker that follows the subject. Trained
to be indifferent to mild blur, noise and brightness: decoded video is judged by what it shows.
*Extractor* of `fvd-world`: a feature layer of width `WIDTH`. Trained to be anything but indifferent: from it small
decoders must recover positions over time, speed, background phase and angle, texture density and speed, and linear
ones the band energies of the very pixels it sees, blurred or frozen as they are. Both share the trunk, no more.

Frame 0 is never seen: where it was given to the generator, it is no credit. Frames 1 … 32 are read in 8 groups of 5
that overlap by one frame, so that every change between consecutive frames lies inside a group. A single image is
read as a group of 5 equal frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from evals.catalogue import (
    ATTRIBUTES,
    CLIP_FRAMES,
    GROUP,
    GROUPS,
    IMAGE_ATTRIBUTES,
    JUDGED_FRAMES,
    WEIGHTS,
    WIDTH,
    card,
)
from evals.protocol import sha256_of
from magic141.data.factors import FRAME_SIZE
from magic141.errors import InputError, WeightsCorrupt, WeightsMissing

MAPS = 8
"""Heat maps whose centres of mass the temporal part sees; the first is the tracker."""


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _window(maps: Tensor, centre: Tensor) -> Tensor:
    """Cut 12 x 12 samples, 2.4 px apart, of maps (G, C, h, w) around centres (G, 2) in [-1, 1]: (G, C, 12, 12)."""
    reach = torch.linspace(-0.4125, 0.4125, 12, device=maps.device)
    grid = torch.stack(torch.meshgrid(reach, reach, indexing="xy"), dim=-1) + centre[:, None, None]
    return F.grid_sample(maps.float(), grid.float(), align_corners=False).to(maps.dtype)


@dataclass(frozen=True)
class Outputs:
    """Raw outputs for a batch of B clips.

    logits: attribute -> (B, classes). track: (B, 8, 2), subject centre in pixels at frames 3, 7, …, 31.
    features: (B, WIDTH), unit variance over the training clips, before any decoder.
    """

    logits: dict[str, Tensor]
    track: Tensor
    features: Tensor


class WorldJudge(nn.Module):
    """See the module's docstring. Pixels are floats in [-1, 1], channels last as frames come.

    Each group passes a convolutional trunk. Heat maps over it give places; at the first place, the subject, a glimpse
    looks again at fine features, so that a shape need not survive the pooling of a whole busy picture. What groups
    saw, and how fast the subject moves between them, is mixed over time and pooled by attention.
    """

    def __init__(self, width: int = 160) -> None:
        super().__init__()
        self.stem = _conv(3 * (GROUP + 1), 24, 5, 2)
        self.low, self.low_residual = _conv(24, 64, 3, 2), _conv(64, 64, 3)
        self.high, self.high_residual = _conv(64, 128, 3, 2), _conv(128, 128, 3)
        self.map_low, self.map_high = nn.Conv2d(64, MAPS, 1), nn.Conv2d(128, MAPS, 1)
        self.glimpse = nn.Sequential(
            _conv(24, 64, 3, 2), _conv(64, 64, 3, 2), nn.Flatten(), nn.Linear(576, 96)
        )
        self.embed = nn.Linear(2 * 128 + 2 * 64 + 2 * MAPS + 96, width)
        self.velocity = nn.Linear(4, width)
        self.when = nn.Parameter(torch.zeros(GROUPS, width))
        self.mix = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(2))
        self.queries = nn.Linear(width, 4)
        pooled = 4 * width
        self.heads = nn.ModuleDict({name: nn.Linear(pooled, len(v)) for name, v in ATTRIBUTES.items()})
        self.image_heads = nn.ModuleDict({n: nn.Linear(width, len(ATTRIBUTES[n])) for n in IMAGE_ATTRIBUTES})
        self.feature = nn.Linear(pooled + 2 * GROUPS, WIDTH)
        self.feature_norm = nn.BatchNorm1d(WIDTH, affine=False)

    def _groups(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """(G, 64, 64, 15) -> embedding (G, width) and centres of mass (G, MAPS, 2) in [-1, 1]."""
        stem = self.stem(groups.permute(0, 3, 1, 2))
        low = self.low(stem)
        low = low + self.low_residual(low)
        high = self.high(low)
        high = high + self.high_residual(high)
        maps = self.map_low(low) + F.interpolate(self.map_high(high), scale_factor=2, mode="bilinear")
        weights = maps.float().flatten(2).softmax(-1).unflatten(-1, maps.shape[-2:])
        cells = (torch.arange(maps.shape[-1], device=maps.device) + 0.5) * (2 / maps.shape[-1]) - 1
        centres = torch.stack([(weights.sum(2) * cells).sum(-1), (weights.sum(3) * cells).sum(-1)], dim=-1)
        parts = [
            high.mean((2, 3)),
            high.amax((2, 3)),
            low.mean((2, 3)),
            low.square().mean((2, 3)),
            centres.flatten(1).to(low.dtype),
            self.glimpse(_window(stem, centres[:, 0].detach())),
        ]
        return F.relu(self.embed(torch.cat(parts, dim=1))), centres

    def forward(self, video: Tensor) -> Outputs:
        """Judge (B, 32, 64, 64, 3), frames 1 … 32 of each clip."""
        b = len(video)
        first = GROUP * torch.arange(GROUPS, device=video.device)[:, None]
        frames = (first + torch.arange(GROUP + 1, device=video.device)).clamp(max=JUDGED_FRAMES - 1)
        groups = video[:, frames].permute(0, 1, 3, 4, 2, 5).flatten(4)  # (B, 8, 64, 64, 15)
        embedding, centres = self._groups(groups.flatten(0, 1))
        track = centres.view(b, GROUPS, MAPS, 2)[:, :, 0]
        steps = track.diff(dim=1).detach() * (FRAME_SIZE / 2 / GROUP)  # px/frame
        arrived, left = F.pad(steps, (0, 0, 1, 0)), F.pad(steps, (0, 0, 0, 1))
        x = embedding.view(b, GROUPS, -1) + self.when + self.velocity(torch.cat([arrived, left], dim=-1))
        for mix in self.mix:
            x = x + F.relu(mix(x.transpose(1, 2))).transpose(1, 2)
        weights = self.queries(x).softmax(dim=1)
        pooled = (weights.transpose(1, 2) @ x).flatten(1)
        logits = {name: head(pooled).float() for name, head in self.heads.items()}
        features = self.feature(torch.cat([pooled, track.flatten(1).to(pooled.dtype)], dim=1)).float()
        return Outputs(logits, (track + 1) * (FRAME_SIZE / 2), self.feature_norm(features))

    def judge_images(self, images: Tensor) -> dict[str, Tensor]:
        """Image attribute -> logits for (B, 64, 64, 3)."""
        embedding, _ = self._groups(images.repeat(1, 1, 1, GROUP + 1))
        return {name: head(embedding).float() for name, head in self.image_heads.items()}


def to_pixels(frames: Tensor) -> Tensor:
    """uint8 in 0-255 -> float in [-1, 1], same shape."""
    return frames.float().div_(127.5).sub_(1.0)


@cache
def load_judge(path: Path = WEIGHTS) -> WorldJudge:
    """The trained judge, checked against the sha256 in its card, in float32 and evaluation mode.

    Raises:
        WeightsMissing: there is no file; `python -m evals judge train` makes one.
        WeightsCorrupt: the file is not the one that the card describes.
    """
    if not path.exists():
        raise WeightsMissing(f"no judge weights at {path}; train them with: python -m evals judge train")
    expected = card(path)["sha256"]
    if (found := sha256_of(path)) != expected:
        raise WeightsCorrupt(
            f"{path} has sha256 {found[:12]}…, its card says {expected[:12]}…; restore the file"
        )
    model = WorldJudge()
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()}, strict=False)
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Verdict:
    """What the judge says of N clips or images.

    classes: attribute -> (N,) index. track: (N, 8, 2) pixels and features: (N, WIDTH), clips only (else empty).
    """

    classes: dict[str, NDArray[np.int64]]
    track: NDArray[np.float32]
    features: NDArray[np.float32]


def check_frames(frames: NDArray[np.uint8]) -> None:
    """Raise InputError unless frames are uint8 (N, 1 or 33, 64, 64, 3)."""
    if frames.dtype != np.uint8:
        raise InputError(f"frames must be uint8 in 0-255, got {frames.dtype}; NaN has no place in a picture")
    if frames.ndim != 5 or frames.shape[2:] != (FRAME_SIZE, FRAME_SIZE, 3):
        raise InputError(f"frames must be (N, T, {FRAME_SIZE}, {FRAME_SIZE}, 3), got {frames.shape}")
    if frames.shape[1] not in (1, CLIP_FRAMES):
        raise InputError(
            f"the judge reads images (T = 1) or clips of {CLIP_FRAMES} frames, got T = {frames.shape[1]}; "
            "cut longer video into such windows"
        )


def judge(frames: NDArray[np.uint8], *, batch_size: int = 32, model: WorldJudge | None = None) -> Verdict:
    """Judge uint8 (N, T, 64, 64, 3): T = 33 are clips, T = 1 are images."""
    check_frames(frames)
    model = model or load_judge()
    batches = (torch.from_numpy(frames[i : i + batch_size]) for i in range(0, len(frames), batch_size))
    return (_judge_images if frames.shape[1] == 1 else _judge_clips)(model, batches)


@torch.inference_mode()
def _judge_images(model: WorldJudge, batches: Iterator[Tensor]) -> Verdict:
    found: dict[str, list[NDArray[np.int64]]] = {name: [] for name in IMAGE_ATTRIBUTES}
    for batch in batches:
        for name, logits in model.judge_images(to_pixels(batch[:, 0])).items():
            found[name].append(logits.argmax(1).numpy())
    nothing = np.empty((0, 0), np.float32)
    return Verdict({name: np.concatenate(parts) for name, parts in found.items()}, nothing, nothing)


@torch.inference_mode()
def _judge_clips(model: WorldJudge, batches: Iterator[Tensor]) -> Verdict:
    found: dict[str, list[NDArray[np.int64]]] = {name: [] for name in ATTRIBUTES}
    tracks, features = [], []
    for batch in batches:
        outputs = model(to_pixels(batch[:, 1:]))
        for name, logits in outputs.logits.items():
            found[name].append(logits.argmax(1).numpy())
        tracks.append(outputs.track.numpy())
        features.append(outputs.features.numpy())
    classes = {name: np.concatenate(parts) for name, parts in found.items()}
    return Verdict(classes, np.concatenate(tracks), np.concatenate(features))
