"""Examines the CLIP judge of the lab world on truth that it never saw: what it finds, and that it is blind to motion.

The mean over frames makes it so, for this judge as for every CLIP score of video: nothing here is trained away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from evals import clip_world, statistics
from evals.catalogue import ATTRIBUTES
from evals.clip_scores import ClipJudge
from evals.clip_world_training import CLIP_FRAMES
from evals.judge_exam import FIRST
from evals.training import write_card
from magic141.data.factors import DIRECTIONS, FRAME_SIZE, MOTIONS
from magic141.data.render import render
from magic141.data.world import Scene, Split, World

CANDIDATES = 32
VISIBLE = ("shape", "colour", "size", "background", "tone", "hue", "texture")
"""Factors that a frame shows; the others need motion."""
REQUIRED = 0.95
_SPEED = 0.6
"""Pixels a frame of the hard negatives: slow enough that no clip of 33 frames meets a wall."""
_STILL_SIZE_LAWS = ("drift", "orbit", "zigzag", "still")
"""A pulse changes the size, which a frame shows."""

Matrix = NDArray[np.float64]


def similarities(judge: ClipJudge, frames: NDArray[np.uint8], captions: Sequence[str]) -> Matrix:
    """Mean over frames of the cosine of each of N clips (N, T, 64, 64, 3) with each of M captions: (N, M)."""
    vectors = np.stack(list(judge.images(frame for clip in frames for frame in clip)))
    text = np.stack([judge.text(caption) for caption in captions])
    found: Matrix = vectors.reshape(*frames.shape[:2], -1).mean(axis=1) @ text.T
    return found


def retrieval(
    clips: int, *, split: Split = "test", first: int = FIRST, stride: int = 1, judge: ClipJudge | None = None
) -> dict[str, dict[str, Any]]:
    """How often the right one of 32 is found, text to video and video to text, among truth clips of a split.

    Candidates with equal captions are all right. Every `stride`-th frame is seen. `clips` is rounded to groups of 32.
    """
    judge = judge or clip_world.load()
    hits: dict[str, list[bool]] = {"text-to-video": [], "video-to-text": []}
    groups = max(1, round(clips / CANDIDATES))
    for group in track(range(groups), description=f"retrieval on {split}"):
        scenes = World().scenes(split, first + group * CANDIDATES, CANDIDATES)
        captions = [scene.caption() for scene in scenes]
        table = similarities(judge, render(scenes, CLIP_FRAMES).numpy()[:, ::stride], captions)
        for name, guesses in (
            ("text-to-video", table.argmax(axis=0)),
            ("video-to-text", table.argmax(axis=1)),
        ):
            hits[name] += [captions[i] == captions[j] for i, j in enumerate(guesses)]
    return {name: _proportion(flags, CANDIDATES) for name, flags in hits.items()}


def restated(scene: Scene, factor: str) -> list[str]:
    """Captions of the scene with each value of one factor that a frame shows; they differ in its words alone."""
    part = {"texture": "texture", "background": "backdrop", "tone": "backdrop", "hue": "backdrop"}.get(
        factor, "subject"
    )
    key = "kind" if factor in ("texture", "background") else factor
    changed = (replace(getattr(scene, part), **{key: value}) for value in range(len(ATTRIBUTES[factor])))
    return [replace(scene, **{part: value}).caption() for value in changed]


def factors(
    clips: int, *, first: int = FIRST, stride: int = 1, judge: ClipJudge | None = None
) -> dict[str, dict[str, Any]]:
    """How often the right word is found for each factor that a frame shows, all other words being equal."""
    judge = judge or clip_world.load()
    hits: dict[str, list[bool]] = {name: [] for name in VISIBLE}
    for index in track(range(first, first + clips), description="single words"):
        scene = World().scene("test", index)
        frames = render([scene], CLIP_FRAMES).numpy()[:, ::stride]
        captions = {name: restated(scene, name) for name in VISIBLE}
        row = similarities(judge, frames, [text for texts in captions.values() for text in texts])[0]
        for name, texts in captions.items():
            scores, row = row[: len(texts)], row[len(texts) :]
            hits[name].append(int(scores.argmax()) == scene.labels()[name])
    return {name: _proportion(flags, len(ATTRIBUTES[name])) for name, flags in hits.items()}


def directions(scene: Scene) -> list[Scene]:
    """The scene as a drift in each of 8 directions, through the middle of the picture half-way, without events.

    Opposite ones show the subject at the same places in the other order. Captions differ in the direction alone.
    """
    found = []
    for direction in range(len(DIRECTIONS)):
        angle = direction * np.pi / 4
        back = _SPEED * (CLIP_FRAMES - 1) / 2
        place = (FRAME_SIZE / 2 - back * np.cos(angle), FRAME_SIZE / 2 - back * np.sin(angle))
        motion = replace(
            scene.motion,
            law=MOTIONS.index("drift"),
            name="drift",
            direction=direction,
            speed=_SPEED,
            place=place,
            first_turn=0,
            turn_every=0,
        )
        found.append(replace(scene, motion=motion, direction_said=True))
    return found


def laws(scene: Scene) -> list[Scene]:
    """The scene under each law that leaves the size alone, about the middle of the picture; no direction is said."""
    swings = {"orbit": 9.0, "zigzag": 6.0}
    drift = directions(scene)[scene.motion.direction]
    found = [replace(drift, direction_said=False)]
    for name in _STILL_SIZE_LAWS[1:]:
        motion = replace(
            scene.motion,
            law=MOTIONS.index(name),
            name=name,
            direction=scene.motion.direction // 2 * 2,
            speed=_SPEED if name == "zigzag" else 0.0,
            place=drift.motion.place if name == "zigzag" else (FRAME_SIZE / 2, FRAME_SIZE / 2),
            swing=swings.get(name, 0.0),
            period=24.0,
            first_turn=0,
            turn_every=0,
        )
        found.append(replace(scene, motion=motion, direction_said=False))
    return found


def hard_negatives(
    kind: str, scenes: int, *, first: int = FIRST, stride: int = 1, judge: ClipJudge | None = None
) -> dict[str, dict[str, Any]]:
    """How often the right one of k is found where candidates differ in motion alone; one trial a scene, a direction.

    kind: "directions" (k = 8) or "laws" (k = 4). Chance is 1/k.
    """
    judge = judge or clip_world.load()
    vary = {"directions": directions, "laws": laws}[kind]
    hits: dict[str, list[bool]] = {"text-to-video": [], "video-to-text": []}
    for index in track(range(scenes), description=f"hard negatives: {kind}"):
        candidates = vary(World().scene("test", first + index))
        captions = [scene.caption() for scene in candidates]
        table = similarities(judge, render(candidates, CLIP_FRAMES).numpy()[:, ::stride], captions)
        own = index % len(candidates)
        hits["text-to-video"].append(int(table[:, own].argmax()) == own)
        hits["video-to-text"].append(int(table[own].argmax()) == own)
    return {name: _proportion(flags, len(candidates)) for name, flags in hits.items()}


def order(
    clips: int, *, first: int = FIRST, seed: int = 0, judge: ClipJudge | None = None
) -> dict[str, float]:
    """Largest change of the score of truth clips when their frames are reversed, and when they are shuffled."""
    scenes = World().scenes("test", first, clips)
    frames, captions = render(scenes, CLIP_FRAMES).numpy(), [scene.caption() for scene in scenes]
    shuffled = frames[:, np.random.default_rng(seed).permutation(CLIP_FRAMES)]
    as_is = clip_world.scores(frames, captions, judge)
    return {
        name: float(np.abs(clip_world.scores(changed, captions, judge) - as_is).max())
        for name, changed in (("reversed", frames[:, ::-1]), ("shuffled", shuffled))
    }


def _proportion(flags: Sequence[bool], candidates: int) -> dict[str, Any]:
    found = statistics.proportion(flags)
    return {
        "accuracy": round(found.value, 5),
        "low": round(found.low, 5),
        "high": round(found.high, 5),
        "n": found.n,
        "chance": round(1 / candidates, 5),
    }


def record_exam(clips: int) -> dict[str, dict[str, Any]]:
    """Examine the shipped judge, write all answers into its card, and return them by name."""
    report = {f"{way} among {CANDIDATES}": row for way, row in retrieval(clips).items()}
    apart = retrieval(clips // 4, split="compositional")
    report |= {f"{way} among {CANDIDATES}, compositional": row for way, row in apart.items()}
    for kind in ("directions", "laws"):
        rows = hard_negatives(kind, clips // 4, stride=4)
        report |= {f"{way} among {kind}": row for way, row in rows.items()}
    report |= {f"word of {name}": row for name, row in factors(clips // 4, stride=4).items()}
    facts = clip_world.card()
    facts["exam"] = report
    facts["exam_order"] = order(16)
    facts["exam_command"] = f"python -m evals clip-world exam --clips {clips}"
    write_card(clip_world.FOLDER / clip_world.CARD_FILE, facts)
    return report
