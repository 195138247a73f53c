"""Examines the judge on truth that it never saw, and shows how every score answers to known clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from evals import lab, statistics
from evals.catalogue import ATTRIBUTES, CENTRES, CLIP_FRAMES, IMAGE_ATTRIBUTES, WEIGHTS, card
from evals.judges import WorldJudge, judge
from evals.training import write_card
from magic141.data.render import render
from magic141.data.world import Scene, Split, World

FIRST = 2_000_000
"""Index of the first scene of an exam: training counts from 0, truth statistics from 1,000,000."""
_BATCH = 64


def examine(
    clips: int, *, split: Split = "test", first: int = FIRST, model: WorldJudge | None = None
) -> dict[str, dict[str, Any]]:
    """Accuracy of the judge on truth: attribute -> {accuracy, low, high, n}, for clips and (`image-…`) first frames.

    `track` holds the root mean square error in pixels of the subject's position where it is alone in view.
    """
    world = World()
    hits: dict[str, list[bool]] = {
        name: [] for name in (*ATTRIBUTES, *(f"image-{n}" for n in IMAGE_ATTRIBUTES))
    }
    squares: list[NDArray[np.float64]] = []
    for start in track(range(first, first + clips, _BATCH), description=f"exam on {split}"):
        scenes = world.scenes(split, start, min(_BATCH, first + clips - start))
        frames = render(scenes).numpy()
        verdict, images = judge(frames, model=model), judge(frames[:, :1], model=model)
        for row, scene in enumerate(scenes):
            for name, label in scene.labels().items():
                if label >= 0:
                    hits[name].append(int(verdict.classes[name][row]) == label)
                if name in IMAGE_ATTRIBUTES:
                    hits[f"image-{name}"].append(int(images.classes[name][row]) == label)
            truth = scene.truth(CLIP_FRAMES)
            alone = ~truth.visible[list(CENTRES), 1:].any(axis=1)
            gap = verdict.track[row] - truth.positions[list(CENTRES), 0]
            squares.append((gap[alone] ** 2).sum(axis=1))
    report: dict[str, dict[str, Any]] = {}
    for name, flags in hits.items():
        if flags:
            found = statistics.proportion(flags)
            report[name] = {
                "accuracy": round(found.value, 5),
                "low": round(found.low, 5),
                "high": round(found.high, 5),
                "n": found.n,
            }
    errors = np.concatenate(squares)
    report["track"] = {"rmse_px": round(float(np.sqrt(errors.mean())), 4), "n": len(errors)}
    return report


def record_exam(clips: int) -> dict[str, dict[str, Any]]:
    """`examine` the shipped judge on the test split, and on the compositional one, and write both into its card."""
    report = examine(clips)
    facts = card(WEIGHTS)
    facts["exam"] = report
    facts["exam_compositional"] = examine(max(1, clips // 4), split="compositional")
    facts["exam_command"] = f"python -m evals judge exam --clips {clips}"
    write_card(WEIGHTS.with_suffix(".json"), facts)
    return report


def slowed(scene: Scene, factor: float) -> Scene:
    """The scene with a subject that moves at `factor` of its speed."""
    motion = scene.motion
    return replace(scene, motion=replace(motion, speed=motion.speed * factor, period=motion.period / factor))


def known_clips(scenes: Sequence[Scene], seed: int = 0) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Clips whose flaws are known, one kind at a time."""
    import cv2

    yield from lab.reference_rows(scenes, seed)
    yield "half speed", render([slowed(scene, 0.5) for scene in scenes]).numpy()
    truth = render(scenes).numpy()
    yield "other scenes", render(World().scenes("test", FIRST + 500_000, len(scenes))).numpy()
    yield "blurred", np.stack([[cv2.GaussianBlur(f, (0, 0), 1.5) for f in clip] for clip in truth])
    frozen = truth.copy()
    frozen[:, CLIP_FRAMES // 2 :] = frozen[:, CLIP_FRAMES // 2, None]
    yield "frozen half-way", frozen
    noise = np.random.default_rng(seed).normal(0, 8, truth.shape)
    yield "grain", np.clip(truth + noise, 0, 255).round().astype(np.uint8)
