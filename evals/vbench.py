"""VBench's scores that need networks (Huang et al. 2024, arXiv 2311.17982), of one clip, by the formulas of its code.

Read from github.com/Vchitect/VBench at 45e79ec, whose changes since the paper are followed. Every function takes a
`Network` and frames, uint8 (H, W, 3) of one size, and holds no more than a batch of them. What it returns is VBench's
number as a fraction, not the percentage of its leaderboard. Background consistency is `clip-background` of
`evals.clip_scores`, flickering is in `evals.appearance`.

VBench's number of a model is the mean over its clips, with one exception: subject consistency is the mean over all
pairs of frames of all clips, so that longer clips count for more. A still clip is the most consistent and the
smoothest there is: read these numbers beside the dynamic degree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, functional

from evals.protocol import protocol_string
from evals.vbench_networks import Network
from magic141.errors import InputError

TOP = 0.05
"""Share of the pixels, the fastest ones, whose mean speed is a pair's."""
RATE, SPEED, SPEED_SIDE = 8.0, 6.0, 256.0
"""At 8 frames per second a pair moves where that speed is above 6 px in frames with a short side of 256 px."""
PAIRS, FRAMES = 4, 16
"""A clip moves where 4 pairs do for 16 frames."""
LONG_SIDE = 512
"""Longest side in pixels of a frame that MUSIQ rates."""
_BATCH = 32
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_BILINEAR, _BICUBIC = InterpolationMode.BILINEAR, InterpolationMode.BICUBIC

Frame = NDArray[np.uint8]

_FACTS: dict[str, dict[str, str]] = {
    "subject-consistency": {"input": "short side 224 bilinear"},
    "i2v-subject": {
        "input": "short side 256 bicubic antialiased, centre 224",
        "terms": "0.4 max to image + 0.3 mean + 0.3 min of consecutive",
    },
    "aesthetic": {"input": "short side 224 bicubic, centre 224"},
    "imaging-quality": {"input": f"long side at most {LONG_SIDE} bilinear"},
    "motion-smoothness": {"frames": "every second predicted", "input": "native size padded to 16"},
    "vbench-dynamic-degree": {
        "frames": "8 per second",
        "input": "native size padded to 8",
        "flow": "VBench uses raft-things with 20 updates, here torchvision's port of RAFT",
    },
}


def protocol(metric: str, network: Network) -> str:
    """The protocol string of one of this module's scores. Raises InputError for another name."""
    if metric not in _FACTS:
        raise InputError(f"no VBench score is called {metric!r}; there are {', '.join(_FACTS)}")
    facts = {"model": network.name, "weights": network.identity, "frames": "all"} | _FACTS[metric]
    return protocol_string(metric, **facts)


def subject_consistency(dino: Network, frames: Iterable[Frame]) -> float:
    """mean over t > 0 of (max(0, f(t) . f(0)) + max(0, f(t) . f(t-1))) / 2 with DINO's unit vectors f.

    Frames are not cropped: the short side becomes 224 px, bilinear without antialiasing, and DINO sees all of it.

    Args:
        dino: see `load_dino`.

    Raises:
        InputError: fewer than 2 frames.
    """
    first: Tensor | None = None
    before: Tensor | None = None
    pairs = []
    for vector in _rows(dino, map(_subject_pixels, _checked(frames))):
        if first is None or before is None:
            first = vector
        else:
            pairs.append((_likeness(vector, before) + _likeness(vector, first)) / 2)
        before = vector
    _require(len(pairs) + (first is not None), 2, "subject consistency")
    return float(np.mean(pairs))


def i2v_subject(dino: Network, frames: Iterable[Frame], image: Frame) -> float:
    """0.4 max over t of s(t) + 0.3 mean over t > 0 of c(t) + 0.3 min over t > 0 of c(t), of VBench-I2V.

    s(t) = max(0, f(t) . h) with DINO's unit vectors f of frames and h of the image, c(t) = max(0, f(t) . f(t-1)).
    Earlier versions of VBench-I2V weighed 0.5, 0.5 and 0.

    Args:
        dino: see `load_dino`.
        image: uint8 (H', W', 3), the picture the clip was made from. VBench crops it to the ratio of the clip first.
            It is scaled in 8 bits as VBench does, so that a clip that shows just this image scores a little below 1.

    Raises:
        InputError: fewer than 2 frames, or the image is not 8-bit RGB.
    """
    given = next(_rows(dino, map(_image_pixels, _checked([image]))))
    before: Tensor | None = None
    to_image, consecutive = [], []
    for vector in _rows(dino, map(_i2v_pixels, _checked(frames))):
        to_image.append(_likeness(vector, given))
        if before is not None:
            consecutive.append(_likeness(vector, before))
        before = vector
    _require(len(to_image), 2, "i2v-subject")
    return 0.4 * max(to_image) + 0.3 * float(np.mean(consecutive)) + 0.3 * min(consecutive)


def aesthetic(network: Network, frames: Iterable[Frame]) -> float:
    """Mean over frames of the rating / 10.

    The short side becomes 224 px, bicubic without antialiasing, and the middle 224x224 are kept.

    Args:
        network: see `load_aesthetic`.

    Raises:
        InputError: there is no frame.
    """
    return _mean(_rows(network, map(_aesthetic_pixels, _checked(frames))), "aesthetic quality") / 10


def imaging_quality(network: Network, frames: Iterable[Frame]) -> float:
    """Mean over frames of the rating / 100.

    Where the long side is above 512 px, frames are scaled to it, bilinear without antialiasing; VBench calls this
    mode "longer".

    Args:
        network: see `load_musiq`.

    Raises:
        InputError: there is no frame.
    """
    return _mean(_rows(network, map(_quality_pixels, _checked(frames)), batch=1), "imaging quality") / 100


@torch.inference_mode()
def motion_smoothness(network: Network, frames: Iterable[Frame]) -> float:
    """(255 - mean of |x(t) - y(t)|) / 255 over odd t: y(t) is predicted from frames t - 1 and t + 1, in grey levels.

    The prediction is cut off to 8 bits, not rounded, as VBench does. The last frame of an even number is not used.

    Args:
        network: see `load_amt`. Frames are padded to multiples of 16 by repeating their borders.

    Raises:
        InputError: fewer than 3 frames.
    """
    left: Frame | None = None
    middle: Frame | None = None
    errors = []
    count = 0
    for count, frame in enumerate(_checked(frames), start=1):
        if count % 2 == 0:
            middle = frame
            continue
        if left is not None and middle is not None:
            errors.append(_interpolation_error(network, left, middle, frame))
        left = frame
    _require(count, 3, "motion smoothness")
    return float((255 - np.mean(errors)) / 255)


@torch.inference_mode()
def dynamic_degree(network: Network, frames: Iterable[Frame], fps: float) -> float:
    """1 where the clip moves, else 0. The mean over clips is VBench's dynamic degree.

    Of every max(1, round(fps / 8)) frames one is kept. The speed of a pair of those is the mean length of the
    fastest 5 % of the flow, in px, in frames padded to multiples of 8. The clip moves where at least
    round(4 n / 16) of the pairs of n kept frames are faster than 6 s / 256, with s the short side in px and round
    to the even neighbour. Two kept frames need no moving pair: VBench says 1 of them.

    Args:
        network: see `load_raft`.
        fps: frames per second of the clip.

    Raises:
        InputError: fewer than 2 frames are kept, or fps is not positive.
    """
    if not 0 < fps < math.inf:
        raise InputError(f"fps must be positive and finite, got {fps}; give the rate the clip is shown at")
    step = max(1, round(fps / RATE))
    before: Frame | None = None
    count = moving = 0
    for frame in islice(_checked(frames), 0, None, step):
        count += 1
        if before is not None:
            pad = _padding(frame, 8)
            flow = network.run(*(F.pad(_tensor(x), pad, mode="replicate") for x in (before, frame)))
            moving += top_speed(flow[0].cpu().numpy()) > SPEED * (min(frame.shape[:2]) / SPEED_SIDE)
        before = frame
    _require(count, 2, f"dynamic degree, which keeps one frame of {step},")
    return float(moving >= round(PAIRS * (count / FRAMES)))


def top_speed(flow: NDArray[np.floating]) -> float:
    """Mean length in px of the fastest 5 % of flow (2, h, w); at least 20 pixels."""
    speed = np.hypot(flow[0], flow[1]).ravel()
    fastest = int(speed.size * TOP)
    return float(np.partition(speed, speed.size - fastest)[-fastest:].mean(dtype=np.float64))


def _interpolation_error(network: Network, left: Frame, middle: Frame, right: Frame) -> float:
    height, width = middle.shape[:2]
    pad = _padding(middle, 16)
    pair = (F.pad(_tensor(frame) / 255, pad, mode="replicate") for frame in (left, right))
    predicted = network.run(*pair)[0, :, pad[2] : pad[2] + height, pad[0] : pad[0] + width]
    picture = (predicted * 255).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return float(np.abs(picture.astype(np.int16) - middle).mean())


def _padding(frame: Frame, multiple: int) -> list[int]:
    """Left, right, top and bottom, up to the next multiple; the odd one at the end."""
    down, across = -frame.shape[0] % multiple, -frame.shape[1] % multiple
    return [across // 2, across - across // 2, down // 2, down - down // 2]


def _subject_pixels(frame: Frame) -> Tensor:
    return _normalised(functional.resize(_tensor(frame), [224], _BILINEAR, antialias=False), _IMAGENET)


def _i2v_pixels(frame: Frame) -> Tensor:
    small = functional.resize(_tensor(frame), [256], _BICUBIC, antialias=True)
    return _normalised(functional.center_crop(small, [224]), _IMAGENET)


def _image_pixels(image: Frame) -> Tensor:
    small = functional.resize(Image.fromarray(image), [256], _BICUBIC)
    return _normalised(_tensor(np.array(functional.center_crop(small, [224]))), _IMAGENET)


def _aesthetic_pixels(frame: Frame) -> Tensor:
    small = functional.resize(_tensor(frame), [224], _BICUBIC, antialias=False)
    return _normalised(functional.center_crop(small, [224]), _CLIP)


def _quality_pixels(frame: Frame) -> Tensor:
    pixels = _tensor(frame)
    if max(frame.shape) > LONG_SIDE:
        size = [int(LONG_SIDE / max(frame.shape) * side) for side in frame.shape[:2]]
        pixels = functional.resize(pixels, size, _BILINEAR, antialias=False)
    return pixels / 255


def _tensor(frame: Frame) -> Tensor:
    """Float (1, 3, H, W) in grey levels."""
    return torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()


def _normalised(pixels: Tensor, by: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, deviation = (torch.tensor(values)[:, None, None] for values in by)
    return (pixels / 255 - mean) / deviation


def _checked(frames: Iterable[Frame]) -> Iterator[Frame]:
    shape: tuple[int, ...] | None = None
    for frame in frames:
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
            raise InputError(f"a frame must be uint8 (H, W, 3), got {frame.dtype} {frame.shape}; convert it")
        if shape is not None and frame.shape != shape:
            raise InputError(f"frames change shape from {shape} to {frame.shape}; resize the clip")
        shape = frame.shape
        yield frame


@torch.inference_mode()
def _rows(network: Network, pixels: Iterator[Tensor], batch: int = _BATCH) -> Iterator[Tensor]:
    """The network's answer to each picture (1, 3, h, w), on the CPU in double precision."""
    while group := list(islice(pixels, batch)):
        yield from network.run(torch.cat(group)).double().cpu()


def _likeness(a: Tensor, b: Tensor) -> float:
    return max(0.0, float(F.cosine_similarity(a, b, dim=0)))


def _mean(rows: Iterator[Tensor], what: str) -> float:
    values = [float(row) for row in rows]
    _require(len(values), 1, what)
    return float(np.mean(values))


def _require(count: int, least: int, what: str) -> None:
    if count < least:
        raise InputError(f"{what} needs at least {least} frames, got {count}; score longer clips")
