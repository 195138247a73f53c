"""Graded harm to truth clips of the lab world, for the exam of scores: level 0 is truth, `LEVELS` the worst."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from evals.judge_exam import slowed
from magic141.data.factors import COLOURS, SHAPES
from magic141.data.render import render
from magic141.data.world import Look, Scene

Clips = NDArray[np.uint8]
Corruption = Callable[[Sequence[Scene], Clips, int, np.random.Generator], Clips]
"""(scenes, their truth (N, T, 64, 64, 3), level from 1 to LEVELS, generator) -> harmed clips of the same shape."""

LEVELS = 4


def blur(scenes: Sequence[Scene], clips: Clips, level: int, rng: np.random.Generator) -> Clips:
    """Gaussian, 0.5 px a level."""
    return np.stack([[cv2.GaussianBlur(frame, (0, 0), 0.5 * level) for frame in clip] for clip in clips])


def noise(scenes: Sequence[Scene], clips: Clips, level: int, rng: np.random.Generator) -> Clips:
    """Independent in every pixel, with a standard deviation of 4 grey levels a level."""
    return _rounded(clips + rng.normal(0, 4 * level, clips.shape))


def flicker(scenes: Sequence[Scene], clips: Clips, level: int, rng: np.random.Generator) -> Clips:
    """Every second frame 3 grey levels brighter a level, the others as much darker."""
    signs = np.where(np.arange(clips.shape[1]) % 2, -1, 1)[:, None, None, None]
    return _rounded(clips + 3.0 * level * signs)


def freeze(scenes: Sequence[Scene], clips: Clips, level: int, rng: np.random.Generator) -> Clips:
    """The end stands still: a quarter of the frames a level; at the last, all but two."""
    kept = max(2, round(clips.shape[1] * (1 - level / LEVELS)))
    return np.concatenate(
        [clips[:, :kept], np.repeat(clips[:, kept - 1 : kept], clips.shape[1] - kept, 1)], 1
    )


def shuffle(scenes: Sequence[Scene], clips: Clips, level: int, rng: np.random.Generator) -> Clips:
    """A quarter of the frames a level change places; frame 0 stays."""
    harmed = clips.copy()
    moved = round((clips.shape[1] - 1) * level / LEVELS)
    for clip in harmed:
        places = 1 + rng.permutation(len(clip) - 1)[:moved]
        clip[places] = clip[rng.permutation(places)]
    return harmed


def slow(scenes: Sequence[Scene], clips: Clips, level: int, rng: np.random.Generator) -> Clips:
    """The subject moves at 0.8, 0.6, 0.4 and 0.2 of its speed."""
    return render([slowed(scene, 1 - 0.2 * level) for scene in scenes], clips.shape[1]).numpy()


def wrong_colour(scenes: Sequence[Scene], clips: Clips, level: int, rng: np.random.Generator) -> Clips:
    """In a quarter of the clips a level, the subject has another colour."""
    harmed = clips.copy()
    rows = _share(len(clips), level)
    others = [_recoloured(scenes[row]) for row in rows]
    harmed[rows] = render(others, clips.shape[1]).numpy()
    return harmed


def swap(scenes: Sequence[Scene], clips: Clips, level: int, rng: np.random.Generator) -> Clips:
    """In a quarter of the clips a level, the subject becomes another one half-way."""
    harmed = clips.copy()
    rows = _share(len(clips), level)
    others = [_reshaped(_recoloured(scenes[row])) for row in rows]
    half = clips.shape[1] // 2
    harmed[rows, half:] = render(others, clips.shape[1])[:, half:].numpy()
    return harmed


CORRUPTIONS: dict[str, Corruption] = {
    "blur": blur,
    "noise": noise,
    "flicker": flicker,
    "freeze": freeze,
    "shuffle": shuffle,
    "slow": slow,
    "wrong colour": wrong_colour,
    "swap": swap,
}


def _rounded(values: NDArray[np.float64]) -> Clips:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _share(count: int, level: int) -> list[int]:
    return [row for row in range(count) if row % LEVELS < level]


def _recoloured(scene: Scene) -> Scene:
    # Half-way round the circle of colours: no neighbour that a blur could excuse.
    return _looking(scene, replace(scene.subject, colour=(scene.subject.colour + 4) % len(COLOURS)))


def _reshaped(scene: Scene) -> Scene:
    return _looking(scene, replace(scene.subject, shape=(scene.subject.shape + 1) % len(SHAPES)))


def _looking(scene: Scene, look: Look) -> Scene:
    return replace(scene, subject=look)
