"""`clip-world`: a tiny open_clip model of the lab world, so that CLIP scores need no download; torch-free to import.

Trained here (`evals.clip_world_training`) on single frames of truth clips and their captions. A convolutional image
tower, a text tower and a tokenizer of its own, and another seed: it shares nothing with the CLIP that conditions the
generator. It ships as a `local-dir:` folder of open_clip and is called `world` wherever a CLIP model is named.

Its exam is in the card: it tells clips apart, and finds the words for colour, size, tone and hue nearly always, for
backgrounds mostly, for shapes and textures half the time (the judge of `evals.judges` is sharper there). Like every
mean over frames it is blind to their order, and to the words for motion.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evals.protocol import protocol_string, sha256_of
from magic141.data.factors import FPS, FRAME_SIZE
from magic141.errors import InputError, WeightsCorrupt, WeightsMissing

if TYPE_CHECKING:
    from evals.clip_scores import ClipJudge

NAME = "world"
FOLDER = Path(__file__).parent / "weights" / "clip-world"
WEIGHTS_FILE = "open_clip_model.safetensors"
CARD_FILE = "card.json"


def card(folder: Path = FOLDER) -> dict[str, Any]:
    """What is known of the weights: sha256 of each file, commit, samples, seed, and how they did in the exam.

    Raises:
        WeightsMissing: there is no card.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsMissing(
            f"no {CARD_FILE} in {folder}; train the judge: python -m evals clip-world train"
        ) from error
    return facts


def verified(folder: Path = FOLDER) -> Path:
    """The folder, once each of its files has the sha256 that the card records.

    Raises:
        WeightsMissing: the card or a file is not there.
        WeightsCorrupt: a file is not the one that the card describes.
    """
    for name, expected in card(folder)["sha256"].items():
        path = folder / name
        if not path.exists():
            raise WeightsMissing(f"no {name} in {folder}; restore it, or python -m evals clip-world train")
        if (found := sha256_of(path)) != expected:
            raise WeightsCorrupt(
                f"{path} has sha256 {found[:12]}…, its card says {expected[:12]}…; restore the file"
            )
    return folder


@cache
def load(folder: Path = FOLDER) -> ClipJudge:
    """The shipped judge on the CPU. Raises WeightsMissing or WeightsCorrupt."""
    from evals.clip_scores import ClipJudge

    return ClipJudge.load_world(folder)


def protocol(frames: str) -> str:
    """The protocol string of `scores`, of `frames` such as "1-32". Raises WeightsMissing."""
    return protocol_string(
        "clip-world",
        model=NAME,
        weights=card()["sha256"][WEIGHTS_FILE][:16],
        frames=frames,
        fps=FPS,
        input=f"uint8 arrays {FRAME_SIZE}x{FRAME_SIZE}",
    )


def scores(
    frames: NDArray[np.uint8], prompts: Sequence[str], judge: ClipJudge | None = None
) -> NDArray[np.float64]:
    """Text-video similarity of N clips: the mean over their T frames of the cosine with the prompt, in [-1, 1]: (N,).

    Args:
        frames: uint8 (N, T, 64, 64, 3); images are clips of T = 1. All T count: leave out a frame that was given.
        prompts: N captions; words that the world does not know are read as one unknown word.

    The same as `clip-text` of `evals.clip_scores` with the model `world`. Frames pass the network in small batches.

    Raises:
        InputError: frames of another shape or type, or not one prompt a clip.
        WeightsMissing, WeightsCorrupt: see `verified`.
    """
    if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[2:] != (FRAME_SIZE, FRAME_SIZE, 3):
        raise InputError(
            f"frames must be uint8 (N, T, {FRAME_SIZE}, {FRAME_SIZE}, 3), got {frames.dtype} {frames.shape}"
        )
    if len(prompts) != len(frames) or not frames.size:
        raise InputError(f"clips need a prompt each, got {len(frames)} clips and {len(prompts)} prompts")
    judge = judge or load()
    text = np.stack([judge.text(prompt) for prompt in prompts])
    seen = (frame for clip in frames for frame in clip)
    vectors = np.stack(list(judge.images(seen))).reshape(*frames.shape[:2], -1)
    found: NDArray[np.float64] = np.einsum("ntd,nd->nt", vectors, text).mean(axis=1)
    return found
