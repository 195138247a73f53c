"""The lab world: scenes whose every factor is known, and captions that state some of them.

A scene holds *said* factors (its caption names them) and *hidden* ones (drawn, not said). `World` draws scenes;
its two dials set how ambiguous text and first frame leave a clip: `stated`, the share of hidden factors that captions
give away, and `events`, unannounced turns and late second objects. `motion.py` moves the objects, `render.py` draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from magic141.data import captions
from magic141.data.factors import (
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    DIRECTIONS,
    FPS,
    FRAME_SIZE,
    HELD_OUT,
    HUES,
    MOTIONS,
    RADII,
    SHAPES,
    SIZES,
    TEXTURES,
    TONES,
)
from magic141.data.motion import Body, Motion, Truth, follow, heading
from magic141.errors import InputError

VOCABULARY, STATING = captions.VOCABULARY, captions.STATING

__all__ = [
    "BACKGROUNDS",
    "CAMERAS",
    "COLOURS",
    "DIRECTIONS",
    "FPS",
    "FRAME_SIZE",
    "HELD_OUT",
    "HUES",
    "MOTIONS",
    "RADII",
    "SHAPES",
    "SIZES",
    "STATING",
    "TEXTURES",
    "TONES",
    "VOCABULARY",
    "Backdrop",
    "Look",
    "Moving",
    "Scene",
    "Split",
    "World",
    "heading",
]

Split = Literal["train", "validation", "test", "compositional"]

# A pan over a flat or slowly changing background cannot be told from the object's own drift.
_PANNABLE = (BACKGROUNDS.index("stripes"), BACKGROUNDS.index("checker"), BACKGROUNDS.index("speckle"))
_LOOK = {"shape", "colour", "size"}
"""Labels that a terse caption says."""
_SEEDS = {"train": 11, "validation": 12, "test": 13, "compositional": 14}


@dataclass(frozen=True)
class Look:
    """What an object is: indices into SHAPES, COLOURS and SIZES."""

    shape: int
    colour: int
    size: int


@dataclass(frozen=True)
class Backdrop:
    """What lies behind: said are kind, tone and hue; hidden are angle (rad), period (px) and phase (of a period)."""

    kind: int
    tone: int
    hue: int
    angle: float
    period: float
    phase: tuple[float, float]


@dataclass(frozen=True)
class Moving:
    """A stochastic texture in motion. Said is its kind; hidden are density, speed, and all it draws from the seed."""

    kind: int
    density: float
    speed: float
    angle: float


@dataclass(frozen=True)
class Scene:
    """One scene of any length. `seed` feeds every high-dimensional detail and the choice among synonyms."""

    seed: int
    subject: Look
    motion: Motion
    backdrop: Backdrop
    texture: Moving
    pan: tuple[float, float]
    late: Look | None
    late_motion: Motion | None
    direction_said: bool
    stated: frozenset[str]
    terse: bool = False

    @property
    def bodies(self) -> list[Body]:
        """The subject, then the late second object if there is one."""
        bodies = [Body(self.motion, RADII[self.subject.size])]
        if self.late is not None and self.late_motion is not None:
            bodies.append(Body(self.late_motion, RADII[self.late.size]))
        return bodies

    def truth(self, num_frames: int, start: int = 0) -> Truth:
        """Where everything is in frames `start` … `start + num_frames - 1`."""
        return follow(self.bodies, self.pan, self.seed, num_frames, start)

    def labels(self, start: int = 0) -> dict[str, int]:
        """Index of every said factor; -1 for a direction that is not defined, not said, or not identifiable.

        A direction is identifiable when the subject drifts for 8 frames from `start` without bounce or turn.
        """
        labels = {
            "shape": self.subject.shape,
            "colour": self.subject.colour,
            "size": self.subject.size,
            "background": self.backdrop.kind,
            "tone": self.backdrop.tone,
            "hue": self.backdrop.hue,
            "texture": self.texture.kind,
            "motion": self.motion.law,
            "direction": self._direction(start) if self.direction_said else -1,
            "camera": int(self.pan != (0.0, 0.0)),
        }
        if self.terse:
            labels.update(dict.fromkeys(labels.keys() - _LOOK, -1))
        return labels

    def _direction(self, start: int) -> int:
        if MOTIONS[self.motion.law] != "drift":
            return -1
        velocity = self.truth(9, start).velocity[:8, 0]
        if np.abs(velocity - velocity[0]).max() > 1e-6:
            return -1
        return heading(velocity[0])

    def caption(self, start: int = 0) -> str:
        """The text for a clip that begins at frame `start`: says the law and, for a drift, the current direction.

        A terse one names the subject alone.
        """
        return captions.describe(self, start)


@dataclass(frozen=True)
class World:
    """Draws scenes.

    stated: share of hidden factors that captions give away: 0, 0.5 or 1 in our studies, any value in [0, 1].
    events: whether turns, late second objects and unsaid directions occur.
    moving_texture: share of scenes with a stochastic texture in motion.
    terse: whether captions name the subject alone, and leave its motion and all that is behind it open.
    """

    stated: float = 0.0
    events: bool = True
    moving_texture: float = 0.7
    terse: bool = False

    def __post_init__(self) -> None:
        for name in ("stated", "moving_texture"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise InputError(f"World({name}={value}): a share lies between 0 and 1")
        if self.terse and self.stated:
            raise InputError(
                f"World(stated={self.stated}, terse=True): a terse caption states nothing hidden"
            )

    def scene(self, split: Split, index: int) -> Scene:
        """Scene number `index` of a split: the same arguments always give the same scene.

        Raises InputError for an unknown split or a negative index.
        """
        if split not in _SEEDS:
            raise InputError(f"unknown split {split!r}; known are {', '.join(get_args(Split))}")
        if index < 0:
            raise InputError(f"scene index {index} is negative; indices start at 0")
        rng = np.random.default_rng([_SEEDS[split], index])
        subject = self._look(rng, split == "compositional")
        motion = self._motion(rng, RADII[subject.size], int(rng.integers(len(MOTIONS))))
        backdrop = _backdrop(rng)
        moves = rng.random() < self.moving_texture
        texture = Moving(
            kind=int(rng.integers(1, len(TEXTURES))) if moves else 0,
            density=float(rng.uniform(0.6, 1.4)),
            speed=float(rng.uniform(0.7, 1.4)),
            angle=float(rng.uniform(-0.35, 0.35)),
        )
        late, late_motion = None, None
        if self.events and rng.random() < 0.15:
            late = self._look(rng, False)
            arrival = int(rng.integers(6, 40))
            late_motion = self._motion(rng, RADII[late.size], MOTIONS.index("drift"), arrival)
        hidden = ("speed", "place", "angle", "turn", "path", "late")
        told = [
            name for name, u in zip(hidden, rng.permutation(len(hidden)), strict=True) if u < self.stated * 6
        ]
        return Scene(
            seed=int(rng.integers(2**31)),
            subject=subject,
            motion=motion,
            backdrop=backdrop,
            texture=texture,
            pan=_pan(rng, backdrop),
            late=late,
            late_motion=late_motion,
            direction_said=not (self.events and rng.random() < 0.1),
            stated=frozenset(told),
            terse=self.terse,
        )

    def scenes(self, split: Split, start: int, count: int) -> list[Scene]:
        """Scenes `start` … `start + count - 1` of a split."""
        return [self.scene(split, index) for index in range(start, start + count)]

    def _look(self, rng: np.random.Generator, held_out: bool) -> Look:
        size = int(rng.integers(len(SIZES)))
        while True:
            shape, colour = int(rng.integers(len(SHAPES))), int(rng.integers(len(COLOURS)))
            if ((COLOURS[colour], SHAPES[shape]) in HELD_OUT) == held_out:
                return Look(shape, colour, size)

    def _motion(self, rng: np.random.Generator, radius: float, law: int, arrival: int = 0) -> Motion:
        name = MOTIONS[law]
        direction = int(rng.integers(8)) if name == "drift" else int(rng.integers(4)) * 2
        speed = float(rng.uniform(0.45, 1.3)) if name in ("drift", "zigzag") else 0.0
        swing = {"orbit": rng.uniform(7.0, 14.0), "zigzag": rng.uniform(5.0, 8.0), "pulse": 0.3}.get(
            name, 0.0
        )
        turns = self.events and name == "drift" and rng.random() < 0.35
        motion = Motion(
            law=law,
            name=name,
            direction=direction,
            speed=speed,
            place=(0.0, 0.0),
            swing=float(swing),
            period=float(rng.choice((-1, 1)) * rng.uniform(18.0, 34.0)),
            phase=float(rng.uniform(0.0, 1.0)),
            first_turn=int(rng.integers(10, 40)) if turns else 0,
            turn_every=int(rng.integers(16, 48)) if turns else 0,
            arrival=arrival,
        )
        return motion.placed(rng, radius)


def _backdrop(rng: np.random.Generator) -> Backdrop:
    return Backdrop(
        kind=int(rng.integers(len(BACKGROUNDS))),
        tone=int(rng.integers(len(TONES))),
        hue=int(rng.integers(len(HUES))),
        angle=float(rng.choice((0.0, 0.25, 0.5, 0.75)) * np.pi + rng.uniform(-0.12, 0.12)),
        period=float(rng.uniform(11.0, 17.0)),
        phase=(float(rng.random()), float(rng.random())),
    )


def _pan(rng: np.random.Generator, backdrop: Backdrop) -> tuple[float, float]:
    """Camera velocity in pixels a frame, across the stripes so that it shows; mostly none."""
    speed, pans, side = rng.uniform(0.35, 0.9), rng.random() < 0.4, rng.choice((-1.0, 1.0))
    if backdrop.kind not in _PANNABLE or not pans:
        return (0.0, 0.0)
    across = abs(np.cos(backdrop.angle)) >= abs(np.sin(backdrop.angle))
    return (float(side * speed), 0.0) if across else (0.0, float(side * speed))
