"""Fréchet video distance (Unterthiner et al. 2018, arXiv 1812.01717) by the three protocols found in papers.

They share the network (I3D, Kinetics-400 logits, see `evals.i3d`) and differ in resizing and in the covariance, so
their numbers must not be compared with each other; every score says its protocol. As published, the distance is
biased by the number of clips; `fvd` therefore also gives its extrapolation to infinitely many clips (Chong and
Forsyth 2020, with one term more), where there are enough for that, and the unbiased kernel distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree
from torch import Tensor

from evals.frechet import Moments, distance, extrapolated
from evals.i3d import CLASSES, FILE, MIN_FRAMES, REPOSITORY, SIDE, find_weights, is_torchscript, load_i3d
from evals.kernel import kernel_distance
from evals.protocol import Score, protocol_string, sha256_of
from evals.statistics import Estimate
from magic141.errors import InputError, WeightsCorrupt

SHA256 = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
WIDTH = CLASSES
_SAME_CLIP = 1e-5

Array = NDArray[np.float64]
Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class FvdProtocol:
    """One way to compute an FVD.

    Attributes:
        preprocess: uint8 frames (T, H, W, 3) to float32 (3, T, 224, 224) in [-1, 1].
        resize, crop: what `preprocess` does, in words. No protocol here filters against aliasing.
        ddof: 0 for a covariance over N, 1 for one over N - 1.
        network_resizes: a TorchScript network gets the raw frames, resizes and scales them itself. By what its
            authors say it does what `preprocess` does, which any other network gets.
    """

    name: str
    preprocess: Callable[[Frames], Tensor]
    resize: str
    crop: str
    ddof: int
    network_resizes: bool = False


@dataclass(frozen=True)
class Extractor:
    """A network that maps clips (B, 3, T, 224, 224) to (B, 400). scripted: it takes StyleGAN-V's three switches.

    sha256 is that of the file it came from: other weights give other distances.
    """

    network: Callable[..., Tensor]
    sha256: str
    scripted: bool
    device: str = "cpu"


@dataclass(frozen=True)
class FvdScores:
    """plain: as published. infinity: free of the bias of N but for little, where there are clips enough. kernel: free
    of it, where both sides' features are there.

    duplicates: groups of generated clips whose features are the same.
    """

    plain: Score
    infinity: Score | None
    kernel: Score | None
    duplicates: list[list[int]]


def _channels_first(frames: Frames) -> Tensor:
    """float32 (T, 3, H, W) in [0, 255]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()


def _scaled(x: Tensor) -> Tensor:
    """(T, 3, 224, 224) in [0, 255] to (3, T, 224, 224) in [-1, 1]."""
    return (x / 127.5 - 1).transpose(0, 1).contiguous()


def squash(frames: Frames) -> Tensor:
    """Bilinear with half-pixel centres, the aspect ratio given up; (T, H, W, 3) to (3, T, 224, 224)."""
    return _scaled(F.interpolate(_channels_first(frames), size=(SIDE, SIDE), mode="bilinear"))


def crop_centre(frames: Frames) -> Tensor:
    """Short side to 224, bilinear with half-pixel centres, then the centre; (T, H, W, 3) to (3, T, 224, 224)."""
    height, width = frames.shape[1:3]
    scale = SIDE / min(height, width)
    # The other side is rounded up after a product of floats, as in VideoGPT: it may come out one too large.
    size = (SIDE, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), SIDE)
    x = F.interpolate(_channels_first(frames), size=size, mode="bilinear")
    top, left = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    return _scaled(x[:, :, top : top + SIDE, left : left + SIDE])


def squash_legacy(frames: Frames) -> Tensor:
    """Bilinear as TensorFlow 1's resize_bilinear(align_corners=False): output i reads input i * size / 224, so the
    picture moves half a pixel up and left; (T, H, W, 3) to (3, T, 224, 224)."""
    x = _channels_first(frames)
    for axis in (2, 3):
        size = x.shape[axis]
        source = torch.arange(SIDE, dtype=torch.float64) * size / SIDE
        low = source.long()
        weight = (source - low).float().view((-1, 1) if axis == 2 else (-1,))
        low_values = x.index_select(axis, low)
        x = low_values + (x.index_select(axis, (low + 1).clamp(max=size - 1)) - low_values) * weight
    return _scaled(x)


PROTOCOLS: dict[str, FvdProtocol] = {
    protocol.name: protocol
    for protocol in (
        # Skorokhodov et al. 2022 (StyleGAN-V): FeatureStats divides by N.
        FvdProtocol("styleganv", squash, "bilinear half-pixel squash", "none", 0, network_resizes=True),
        # Yan et al. 2021 (VideoGPT).
        FvdProtocol("videogpt", crop_centre, "bilinear half-pixel short side", "centre", 1),
        # Unterthiner et al. 2018: TF-GAN's frechet_classifier_distance_from_activations divides by N - 1.
        FvdProtocol("tf", squash_legacy, "bilinear top-left squash", "none", 1),
    )
}


def find_extractor(path: Path | None = None, device: str = "cpu") -> Extractor:
    """The I3D network, ready for `features`.

    Searched in this order: `path`, the directory that `MAGIC141_WEIGHTS` names, the Hugging Face cache, the hub. An
    explicit path may also name a state dict (see `load_i3d`), which needs no TorchScript.

    Raises:
        InputError: `MAGIC141_WEIGHTS` names no directory, or a state dict has another layout or class count.
        WeightsMissing: the file is nowhere.
        WeightsCorrupt: a TorchScript file is not the published one: it holds code, so no other is run.
    """
    found = find_weights(path)
    digest = sha256_of(found)
    if path is not None and not is_torchscript(found) and digest != SHA256:
        network = load_i3d(found)
        if (classes := network.logits.conv3d.out_channels) != WIDTH:
            raise InputError(f"{found} has {classes} classes, FVD needs {WIDTH}; use the Kinetics-400 file")
        return Extractor(network.to(device), digest, scripted=False, device=device)
    if digest != SHA256:
        raise WeightsCorrupt(
            f"{found} has sha256 {digest[:12]}…, and the published {FILE} has {SHA256[:12]}…: "
            f"delete it and fetch {FILE} of {REPOSITORY} again"
        )
    script = torch.jit.load(str(found), map_location=device).eval()
    return Extractor(script, digest, scripted=True, device=device)


def features(
    clips: Iterable[Frames], extractor: Extractor, protocol: FvdProtocol, *, batch: int = 8
) -> Iterator[Array]:
    """Features (n, 400) of uint8 clips (T, H, W, 3), up to `batch` rows at a time, in order; clips are read lazily.

    Raises:
        InputError: a clip is not uint8 (T, H, W, 3), has fewer than 10 frames or not as many as the first, or the
            network does not return (n, 400).
    """
    raw = protocol.network_resizes and extractor.scripted
    waiting: list[Tensor] = []
    length = 0
    for index, clip in enumerate(clips):
        length = length or len(clip)
        _check_clip(index, clip, length)
        x = torch.from_numpy(clip.transpose(3, 0, 1, 2).copy()) if raw else protocol.preprocess(clip)
        if waiting and (len(waiting) == batch or x.shape != waiting[0].shape):
            yield _run(extractor, waiting, raw)
            waiting = []
        waiting.append(x)
    if waiting:
        yield _run(extractor, waiting, raw)


def duplicates(rows: ArrayLike) -> list[list[int]]:
    """Groups of indices of (n, width) rows that are equal up to rounding (1e-5 of the typical row): repeated clips."""
    x = np.asarray(rows, dtype=np.float64)
    if len(x) < 2:
        return []
    radius = _SAME_CLIP * math.sqrt((x**2).sum(axis=1).mean())
    leader: dict[int, int] = {}
    for i, j in sorted(KDTree(x).query_pairs(radius)):
        leader.setdefault(j, leader.get(i, i))
    groups: dict[int, list[int]] = {}
    for follower, first in sorted(leader.items()):
        groups.setdefault(first, [first]).append(follower)
    return list(groups.values())


def fvd(
    generated: ArrayLike | Moments,
    reference: ArrayLike | Moments,
    protocol: FvdProtocol,
    *,
    frames: int,
    extractor: str,
) -> FvdScores:
    """The distance of generated clips to reference clips, lower is better.

    Args:
        generated, reference: (n, width) features, or their moments. `infinity` needs the features of `generated`
            (for 400 numbers a clip, 1,600 clips), `kernel` those of both.
        frames: per clip. extractor: sha256 of the network's file. Both go into the protocol.

    Raises:
        InputError: widths differ, values are not finite, or a side has no more rows than `protocol.ddof`.
    """
    ours, theirs = (x if isinstance(x, Moments) else Moments.of(x) for x in (generated, reference))
    rows = None if isinstance(generated, Moments) else np.asarray(generated, dtype=np.float64)
    plain = distance(ours, theirs, protocol.ddof)
    repeated = [] if rows is None else duplicates(rows)
    notes = _notes(ours.n, theirs.n, ours.mean.size, repeated)
    infinity = kernel = None
    if rows is not None:
        try:
            infinity = extrapolated(rows, theirs, degree=2)
        except InputError as error:
            notes.append(f"no FVD-infinity: {error}")
        if not isinstance(reference, Moments):
            kernel = kernel_distance(rows, reference)

    facts: dict[str, object] = {
        "name": protocol.name,
        "resize": protocol.resize,
        "antialias": "no",
        "crop": protocol.crop,
        "frames": frames,
        "layer": "logits averaged over time",
        "extractor": extractor,
    }

    def score(metric: str, estimate: Estimate, more: Mapping[str, object]) -> Score:
        low, high = (bound if math.isfinite(bound) else None for bound in (estimate.low, estimate.high))
        text, note = protocol_string(metric, **facts, **more), "; ".join(notes)
        return Score(
            value=estimate.value, low=low, high=high, n=ours.n, protocol=text, better="lower", note=note
        )

    # What a value depends on, and no more, is in its protocol: the kernel distance is free of both counts.
    by_rule = {"covariance": "1/(N-1)" if protocol.ddof else "1/N", "n": ours.n, "n-reference": theirs.n}
    by_fit = {"covariance": "1/(N-1)", "fit": "1, 1/N, 1/N^2", "n": "infinity", "n-reference": theirs.n}
    return FvdScores(
        plain=score("fvd", Estimate(plain, math.nan, math.nan, ours.n), by_rule),
        infinity=score("fvd-infinity", infinity, by_fit) if infinity is not None else None,
        kernel=score("kvd", kernel, {"kernel": "cubic"}) if kernel is not None else None,
        duplicates=repeated,
    )


def _notes(n: int, n_reference: int, width: int, repeated: list[list[int]]) -> list[str]:
    notes = []
    for count, side in ((n, "GENERATED"), (n_reference, "REFERENCE")):
        if count <= width:
            notes.append(
                f"ONLY {count} {side} CLIPS: with {width} or fewer the covariance is singular, and the plain "
                "distance tells the number of clips more than their quality"
            )
    if repeated:
        notes.append(f"clips with the same features: {', '.join(map(str, repeated))}")
    return notes


def _check_clip(index: int, clip: Frames, length: int) -> None:
    if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[3] != 3:
        raise InputError(f"clip {index} is {clip.dtype} {clip.shape}; FVD needs uint8 (T, H, W, 3)")
    if len(clip) < MIN_FRAMES:
        raise InputError(
            f"clip {index} has {len(clip)} frames, FVD needs at least {MIN_FRAMES}; leave it out"
        )
    if len(clip) != length:
        raise InputError(
            f"clip {index} has {len(clip)} frames, the first had {length}; cut all to one length"
        )


@torch.inference_mode()
def _run(extractor: Extractor, clips: list[Tensor], raw: bool) -> Array:
    x = torch.stack(clips).to(extractor.device)
    if extractor.scripted:
        out = extractor.network(x, rescale=raw, resize=raw, return_features=True)
    else:
        out = extractor.network(x)
    if tuple(out.shape) != (len(clips), WIDTH):
        raise InputError(f"the network returned {tuple(out.shape)} for {len(clips)} clips, not (n, {WIDTH})")
    return cast(Array, out.double().cpu().numpy())
