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
from itertools import combinations_with_replacement
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

CHANGE_GAIN = 4.0
"""Changes between frames are this many times fainter than what does not change."""
FLOW = 7 * 4 * 4
"""Numbers that a coarse flow has."""
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


def _centre_of_mass(maps: Tensor) -> Tensor:
    """Soft arg max of heat maps (..., h, w), h = w: (..., 2) as x, y in [-1, 1]."""
    weights = maps.float().flatten(-2).softmax(-1).unflatten(-1, maps.shape[-2:])
    cells = (torch.arange(maps.shape[-1], device=maps.device) + 0.5) * (2 / maps.shape[-1]) - 1
    return torch.stack([(weights.sum(-2) * cells).sum(-1), (weights.sum(-1) * cells).sum(-1)], dim=-1)


@torch.no_grad()
def _flow(frames: Tensor) -> Tensor:
    """Coarse optical flow (Lucas and Kanade 1981) of frames (G, T, h, w) in 4 x 4 cells: (G, FLOW).

    A cell has its flow (pixels a frame), log10 of spatial, temporal and unexplained temporal energy, and how far its
    gradients share an orientation (Bigün and Granlund 1987), as a cosine and a sine of twice the angle. Given to the
    network because falling, wandering and panning detail differ by little else, nor do stripes and checkers.
    """
    dt = frames.diff(dim=1)[:, :, 1:-1, 1:-1]
    middle = (frames[:, 1:] + frames[:, :-1]) / 2
    dx = (middle[:, :, 1:-1, 2:] - middle[:, :, 1:-1, :-2]) / 2
    dy = (middle[:, :, 2:, 1:-1] - middle[:, :, :-2, 1:-1]) / 2
    products = torch.stack(
        [(p * q).mean(dim=1) for p, q in combinations_with_replacement((dx, dy, dt), 2)], dim=1
    )
    xx, xy, xt, yy, yt, tt = F.adaptive_avg_pool2d(products, 4).unbind(dim=1)
    ridge = 1e-4
    determinant = (xx + ridge) * (yy + ridge) - xy * xy
    u = (xy * yt - (yy + ridge) * xt) / determinant
    v = (xy * xt - (xx + ridge) * yt) / determinant
    unexplained = (tt + u * xt + v * yt).clamp(min=0)
    energies = [(x + 1e-5).log10() for x in (xx + yy, tt, unexplained)]
    shared = [x / (xx + yy + ridge) for x in (xx - yy, 2 * xy)]
    return torch.stack([u.clamp(-2, 2), v.clamp(-2, 2), *energies, *shared], dim=1).flatten(1)


@dataclass(frozen=True)
class Outputs:
    """Raw outputs for a batch of B clips.

    logits: attribute -> (B, classes). track: (B, 8, 2), subject centre in pixels at frames 3, 7, …, 31; detections:
    the same by each group alone, without the memory of what the subject looks like. features: (B, WIDTH), of unit
    variance over the training clips, before any decoder. image_logits: image attribute -> (I, classes).
    """

    logits: dict[str, Tensor]
    track: Tensor
    detections: Tensor
    features: Tensor
    image_logits: dict[str, Tensor]


class WorldJudge(nn.Module):
    """See the module's docstring. Pixels are floats in [-1, 1], channels last as frames come.

    Each group passes a convolutional trunk with two inputs, the middle frame and the changes between frames (Simonyan
    and Zisserman 2014, "two-stream"). A heat map finds the subject in the first group; what a glimpse sees there is the
    template that follows it through the others, past a second object (Bertinetto et al. 2016, "SiamFC"). Glimpses at it
    spare shapes the pooling of a whole busy picture. What groups saw, the path as a whole, and a coarse optical flow of
    frames and of their changes, in which what stands still has vanished, are mixed over time and pooled by attention.
    """

    def __init__(self, width: int = 160) -> None:
        super().__init__()
        self.look, self.change = _conv(3, 24, 5, 2), _conv(GROUP, 24, 5, 2)
        self.low, self.low_residual = _conv(48, 64, 3, 2), _conv(64, 64, 3)
        self.high, self.high_residual = _conv(64, 128, 3, 2), _conv(128, 128, 3)
        self.map_low, self.map_high = nn.Conv2d(64, MAPS, 1), nn.Conv2d(128, MAPS, 1)
        self.glimpse = nn.Sequential(
            _conv(48, 64, 3, 2), _conv(64, 64, 3, 2), nn.Flatten(), nn.Linear(576, 96)
        )
        self.template = nn.Linear(96, 64)
        self.embed = nn.Linear(2 * 128 + 2 * 64 + 2 * MAPS + 96 + 2 * FLOW, width)
        self.path = nn.Sequential(nn.Linear(4 * GROUPS - 2, 96), nn.ReLU(), nn.Linear(96, width), nn.ReLU())
        self.when = nn.Parameter(torch.zeros(GROUPS, width))
        self.mix = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(2))
        self.queries = nn.Linear(width, 4)
        pooled = 5 * width
        self.heads = nn.ModuleDict({name: nn.Linear(pooled, len(v)) for name, v in ATTRIBUTES.items()})
        self.image_heads = nn.ModuleDict({n: nn.Linear(width, len(ATTRIBUTES[n])) for n in IMAGE_ATTRIBUTES})
        self.feature = nn.Linear(pooled + 2 * GROUPS, WIDTH)
        self.feature_norm = nn.BatchNorm1d(WIDTH, affine=False)

    def _groups(self, groups: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Groups (G, 64, 64, 15) -> embedding (G, width), track and detections (G, 2) in [-1, 1].

        first: (G,), index of the group that each one's clip begins with; an image is its own first.
        """
        frames = groups.permute(0, 3, 1, 2).unflatten(1, (GROUP + 1, 3))
        luma = frames.mean(dim=2)
        changes = CHANGE_GAIN * luma.diff(dim=1)
        stem = torch.cat([self.look(frames[:, GROUP // 2]), self.change(changes)], dim=1)
        low = self.low(stem)
        low = low + self.low_residual(low)
        high = self.high(low)
        high = high + self.high_residual(high)
        maps = self.map_low(low) + F.interpolate(self.map_high(high), scale_factor=2, mode="bilinear")
        centres = _centre_of_mass(maps)
        detections = centres[:, 0]
        starts, clip = first.unique(return_inverse=True)
        template = self.template(self.glimpse(_window(stem[starts], detections[starts].detach())))
        response = torch.einsum("gchw,gc->ghw", low, template[clip]) / 8
        track = _centre_of_mass(maps[:, 0] + response)
        parts = [
            high.mean((2, 3)),
            high.amax((2, 3)),
            low.mean((2, 3)),
            low.square().mean((2, 3)),
            centres.flatten(1).to(low.dtype),
            self.glimpse(_window(stem, track.detach())),
            *(_flow(F.avg_pool2d(x.float(), 2)).to(low.dtype) for x in (luma, changes)),
        ]
        return F.relu(self.embed(torch.cat(parts, dim=1))), track, detections

    def forward(self, video: Tensor, images: Tensor | None = None) -> Outputs:
        """Judge (B, 32, 64, 64, 3), frames 1 … 32 of each clip, and besides them images (I, 64, 64, 3).

        Training gives both at once: a batch norm that saw each kind alone would learn the statistics of neither.
        """
        index = GROUP * torch.arange(GROUPS, device=video.device)[:, None]
        index = (index + torch.arange(GROUP + 1, device=video.device)).clamp(max=JUDGED_FRAMES - 1)
        groups = video[:, index].permute(0, 1, 3, 4, 2, 5).flatten(4).flatten(0, 1)  # (B * 8, 64, 64, 15)
        count = len(groups)
        first = torch.arange(count, device=video.device) // GROUPS * GROUPS
        if images is not None:
            groups = torch.cat([groups, _still(images)])
            first = torch.cat([first, torch.arange(count, len(groups), device=video.device)])
        embedding, track, detections = self._groups(groups, first)
        shown = {name: head(embedding[count:]).float() for name, head in self.image_heads.items()}
        track, detections = (x[:count].unflatten(0, (-1, GROUPS)) for x in (track, detections))
        places = track.detach() * (FRAME_SIZE / 2 / GROUP)
        path = torch.cat(
            [(places - places.mean(dim=1, keepdim=True)).flatten(1) / 4, places.diff(dim=1).flatten(1)], 1
        )
        x = embedding[:count].unflatten(0, (-1, GROUPS)) + self.when
        for mix in self.mix:
            x = x + F.relu(mix(x.transpose(1, 2))).transpose(1, 2)
        weights = self.queries(x).softmax(dim=1)
        pooled = torch.cat([(weights.transpose(1, 2) @ x).flatten(1), self.path(path)], dim=1)
        logits = {name: head(pooled).float() for name, head in self.heads.items()}
        features = self.feature(torch.cat([pooled, track.flatten(1).to(pooled.dtype)], dim=1)).float()
        pixels = [(place + 1) * (FRAME_SIZE / 2) for place in (track, detections)]
        return Outputs(logits, pixels[0], pixels[1], self.feature_norm(features), shown)

    def judge_images(self, images: Tensor) -> dict[str, Tensor]:
        """Image attribute -> logits for (B, 64, 64, 3)."""
        embedding, _, _ = self._groups(_still(images), torch.arange(len(images), device=images.device))
        return {name: head(embedding).float() for name, head in self.image_heads.items()}


def _still(images: Tensor) -> Tensor:
    """Images (B, 64, 64, 3) as groups of equal frames (B, 64, 64, 15)."""
    return images.repeat(1, 1, 1, GROUP + 1)


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
