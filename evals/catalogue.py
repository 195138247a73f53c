"""What the lab scores are called, which way is better, and by what protocol they are measured; torch-free."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from evals import clip_world
from evals.protocol import Better, protocol_string, sha256_of
from magic141.data import factors
from magic141.errors import InputError, WeightsMissing

WEIGHTS = Path(__file__).parent / "weights" / "judge.safetensors"
STATISTICS = Path(__file__).parent / "weights" / "truth.npz"

WIDTH = 32
"""Width of the fvd-world features: small, so that a few hundred clips determine a covariance."""
CLIP_FRAMES = 33
JUDGED_FRAMES = 32
"""Frames 1 … 32: frame 0 may have been given to the generator, and is no credit."""
GROUP = 4
GROUPS = JUDGED_FRAMES // GROUP
CENTRES = tuple(range(3, JUDGED_FRAMES, GROUP))
"""Frames in the middle of the judge's groups of 5 (1-5, 5-9, …), where it tells the position of the subject."""

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": factors.COLOURS,
    "shape": factors.SHAPES,
    "size": factors.SIZES,
    "background": factors.BACKGROUNDS,
    "tone": factors.TONES,
    "hue": factors.HUES,
    "texture": factors.TEXTURES,
    "motion": factors.MOTIONS,
    "direction": factors.DIRECTIONS,
    "camera": factors.CAMERAS,
}
IMAGE_ATTRIBUTES = ("colour", "shape", "size", "background", "tone", "hue")
"""Those that one image shows."""


@dataclass(frozen=True)
class Metric:
    """A score before it is measured. `images`: defined for single images too."""

    better: Better
    unit: str
    images: bool = False
    target: float | None = None


ORACLE: dict[str, Metric] = {
    "oracle-found": Metric("higher", "fraction"),
    "oracle-colour": Metric("higher", "fraction"),
    "oracle-shape": Metric("higher", "fraction"),
    "oracle-count": Metric("higher", "fraction"),
    "oracle-tracking-error": Metric("lower", "px"),
    "oracle-direction-error": Metric("lower", "degrees"),
    "oracle-speed-variation": Metric("lower", "fraction"),
    "oracle-bounce-error": Metric("lower", "fraction"),
    "oracle-colour-drift": Metric("lower", "grey levels"),
    "oracle-size-drift": Metric("lower", "ln px"),
    "oracle-shape-drift": Metric("lower", "fraction"),
    "oracle-background-change": Metric("lower", "grey levels"),
}
"""Scores of `evals.oracle`, by formulas, without a judge."""

METRICS: dict[str, Metric] = {
    "fvd-world": Metric("lower", ""),
    "kvd-world": Metric("lower", ""),
    **{f"accuracy-{name}": Metric("higher", "fraction", name in IMAGE_ATTRIBUTES) for name in ATTRIBUTES},
    "accuracy-mean": Metric("higher", "fraction", images=True),
    "flickering": Metric("higher", "fraction"),
    "motion-ratio": Metric("target", "", target=1.0),
    "flow-ratio": Metric("target", "", target=1.0),
    "first-frame-psnr": Metric("higher", "dB", images=True),
    "clip-world": Metric("higher", "cosine", images=True),
    **ORACLE,
}


CLIP_METRICS = ("clip-text", "clip-image", "clip-consistency", "clip-first-frame", "clip-background")
VBENCH_METRICS = (
    "subject-consistency",
    "i2v-subject",
    "aesthetic",
    "imaging-quality",
    "motion-smoothness",
    "vbench-dynamic-degree",
)
"""Scores of `evals.clip_scores` and `evals.vbench`, named here for command lines that load no torch."""


def check_metrics(names: Sequence[str] | None) -> tuple[str, ...]:
    """The names, or all of them for None. Raises InputError for an unknown one, naming the nearest known."""
    return tuple(METRICS) if names is None else checked(names, METRICS)


def checked(names: Sequence[str], known: Collection[str], of: str = "") -> tuple[str, ...]:
    """The names, each once. Raises InputError for one that is not `known`, naming the nearest; `of` says of what."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise InputError(
                f"unknown metric {name!r}{of}; did you mean {near!r}? Known are {', '.join(known)}"
            )
    return tuple(dict.fromkeys(names))


def card(weights: Path = WEIGHTS) -> dict[str, Any]:
    """The JSON card beside a weights file: sha256, commit, samples, seed, accuracies.

    Raises:
        WeightsMissing: there is none.
    """
    path = weights.with_suffix(".json")
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsMissing(
            f"no card {path.name} beside {weights}; make both: python -m evals judge train"
        ) from error
    return facts


@cache
def identity(path: Path) -> str:
    if not path.exists():
        raise WeightsMissing(
            f"no {path.name} at {path.parent}; make it: python -m evals judge train, then stats"
        )
    return sha256_of(path)[:16]


def protocol(metric: str, *, n: int, num_frames: int = CLIP_FRAMES) -> str:
    """The protocol string of a lab metric for n clips of `num_frames` frames (1: images).

    n is part of it only where the estimator keeps a bias that depends on n (Fréchet); means compare across n.
    """
    if metric == "clip-world":
        return clip_world.protocol("0" if num_frames == 1 else f"1-{JUDGED_FRAMES}, every {GROUP}th")
    facts: dict[str, object] = {"input": "uint8 arrays 64x64", "fps": factors.FPS}
    judged = "0" if num_frames == 1 else f"1-{JUDGED_FRAMES}"
    if metric in ("fvd-world", "kvd-world"):
        facts |= {"frames": judged, "extractor": identity(WEIGHTS), "layer": f"feature {WIDTH}"}
        facts["reference"] = identity(STATISTICS)
        if metric == "fvd-world":
            facts |= {"covariance": "1/(N-1)", "n": n}
            facts["estimator"] = "1/N fit on sub-samples N/2 to N without replacement, truth floor subtracted"
        else:
            facts |= {"kernel": "(x.y/width+1)^3", "estimator": "unbiased"}
    elif metric.startswith("accuracy-"):
        facts |= {"frames": judged, "judge": identity(WEIGHTS)}
        if metric == "accuracy-mean":
            facts["over"] = (
                "attributes defined for the clip" if num_frames > 1 else ", ".join(IMAGE_ATTRIBUTES)
            )
    elif metric == "flickering":
        facts |= {"frames": f"0-{num_frames - 1}", "formula": "VBench"}
    elif metric == "motion-ratio":
        facts |= {"frames": judged, "tracker": identity(WEIGHTS), "lag": "4 frames", "truth": "exact path"}
        facts["clips"] = "moving subject, alone in view"
    elif metric == "flow-ratio":
        facts |= {"frames": judged, "flow": "OpenCV DIS medium", "truth": "rendered scene"}
    elif metric == "first-frame-psnr":
        facts |= {"frames": "0", "ceiling": "60 dB"}
    elif metric in ORACLE:
        facts |= {"frames": judged, "subject": "patch of the nearest ink by chroma, cover over 1/2"}
        if metric == "oracle-tracking-error":
            facts |= {"path": "nearest member of the asked law", "lost": "16 px"}
        elif metric == "oracle-background-change":
            facts["clips"] = "no texture, no pan"
    return protocol_string(metric, **facts)
