"""VBench's scores by name: which network each needs, and how a clip is put to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from evals import vbench
from evals.vbench_networks import Network, load_aesthetic, load_amt, load_dino, load_musiq, load_raft
from magic141.errors import WeightsMissing

Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class Clip:
    """What a score may ask of a clip. `frames` begins anew at every call; `image` is the one it was made from."""

    frames: Callable[[], Iterable[Frame]]
    fps: float
    image: Frame | None


@dataclass(frozen=True)
class Dimension:
    """load: (device) -> network. run: value of a clip, or None where it lacks what the score is about."""

    load: Callable[[torch.device | str], Network]
    run: Callable[[Network, Clip], float | None]


def _i2v(network: Network, clip: Clip) -> float | None:
    return None if clip.image is None else vbench.i2v_subject(network, clip.frames(), clip.image)


def _plain(score: Callable[[Network, Iterable[Frame]], float]) -> Callable[[Network, Clip], float]:
    return lambda network, clip: score(network, clip.frames())


DIMENSIONS: dict[str, Dimension] = {
    "subject-consistency": Dimension(lambda d: load_dino(device=d), _plain(vbench.subject_consistency)),
    "i2v-subject": Dimension(lambda d: load_dino(device=d), _i2v),
    "aesthetic": Dimension(lambda d: load_aesthetic(device=d), _plain(vbench.aesthetic)),
    "imaging-quality": Dimension(lambda d: load_musiq(device=d), _plain(vbench.imaging_quality)),
    "motion-smoothness": Dimension(lambda d: load_amt(device=d), _plain(vbench.motion_smoothness)),
    "vbench-dynamic-degree": Dimension(
        lambda d: load_raft(device=d), lambda n, clip: vbench.dynamic_degree(n, clip.frames(), clip.fps)
    ),
}


def load(names: Sequence[str], device: torch.device | str) -> tuple[dict[str, Network], dict[str, str]]:
    """Networks by score, and for scores whose weights are missing, what to fetch. Raises WeightsCorrupt, InputError."""
    networks, missing = {}, {}
    for name in names:
        try:
            networks[name] = DIMENSIONS[name].load(device)
        except WeightsMissing as error:
            missing[name] = f"weights-missing: {error}"
    return networks, missing
