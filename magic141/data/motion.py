"""How objects move: five laws, walls that reflect, turns that nobody announces. Units are pixels and frames."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from magic141.data.factors import FRAME_SIZE

GROWTH = 4
"""Frames in which a late object grows from nothing to its size."""


@dataclass(frozen=True)
class Motion:
    """A motion law with its hidden numbers.

    law: index into world.MOTIONS; name: the same as text. direction: eighths of a turn, clockwise on screen.
    speed: pixels a frame. place: centre of the path at frame 0. swing: orbit radius or zigzag amplitude in pixels, or
    the relative amplitude of a pulse. period: frames, its sign is the sense of rotation; phase: of a period.
    Turns by a quarter come at `first_turn` and every `turn_every` frames after it (0: never). arrival: first frame.
    """

    law: int
    name: str
    direction: int
    speed: float
    place: tuple[float, float]
    swing: float
    period: float
    phase: float
    first_turn: int
    turn_every: int
    arrival: int

    def placed(self, rng: np.random.Generator, radius: float) -> Motion:
        """This motion at a random place inside the walls, 8 frames of drift away from the first bounce."""
        low = _margin(self, radius)
        room = FRAME_SIZE - 2 * low
        run = 9.0 * self.speed * _unit(self.direction)
        span = room - np.abs(run)
        origin = low + np.maximum(-run, 0.0) + rng.random(2) * span
        return replace(self, place=(float(origin[0]), float(origin[1])))


@dataclass(frozen=True)
class Body:
    """An object as motion sees it."""

    motion: Motion
    radius: float


@dataclass(frozen=True)
class Truth:
    """What is where, exactly. Object 0 is the subject.

    positions: (T, n, 2) centres, x right and y down, in pixels. velocity: (T, n, 2), to the next frame.
    radii: (T, n) in pixels, 0 while an object has not arrived. visible: (T, n).
    camera: (T, 2), offset of the camera over the background in pixels.
    """

    positions: np.ndarray
    velocity: np.ndarray
    radii: np.ndarray
    visible: np.ndarray
    camera: np.ndarray


def _unit(direction: int) -> np.ndarray:
    angle = direction * np.pi / 4
    return np.array([np.cos(angle), np.sin(angle)])


def heading(velocity: np.ndarray) -> int:
    """Index into DIRECTIONS of a screen velocity (2,) in pixels a frame, y pointing down."""
    return int(np.round(np.arctan2(velocity[1], velocity[0]) / (np.pi / 4))) % 8


def _margin(motion: Motion, radius: float) -> np.ndarray:
    """Distance (2,) that the centre of the path keeps from the walls, so that the object stays inside."""
    low = np.full(2, radius)
    if motion.name == "pulse":
        low *= 1 + motion.swing
    elif motion.name == "orbit":
        low += motion.swing
    elif motion.name == "zigzag":
        low += motion.swing * np.abs(_unit(motion.direction)[::-1])
    return low


def _turn_sign(seed: int, count: int) -> float:
    return 1.0 if ((seed >> (count % 29)) & 1) else -1.0


def follow(bodies: list[Body], pan: tuple[float, float], seed: int, num_frames: int, start: int) -> Truth:
    """Move `bodies` from frame 0 and return the window that begins at `start`."""
    end = start + num_frames + 1
    paths = [_path(body, seed, end) for body in bodies]
    positions = np.stack([path for path, _ in paths], axis=1)[start:]
    radii = np.stack([radius for _, radius in paths], axis=1)[start:-1]
    frames = np.arange(start, start + num_frames)
    return Truth(
        positions=positions[:-1],
        velocity=np.diff(positions, axis=0),
        radii=radii,
        visible=radii > 0,
        camera=frames[:, None] * np.array(pan),
    )


def _path(body: Body, seed: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres (end, 2) and radii (end,) of one body. Time runs from its arrival; before it, it waits in place."""
    motion = body.motion
    clock = np.maximum(np.arange(end) - motion.arrival, 0)
    cycle = 2 * np.pi * (clock / motion.period + motion.phase)
    centre = _reflected(motion, _margin(motion, body.radius), seed, int(clock[-1]) + 1)[clock]
    radii = np.full(end, body.radius)
    if motion.name == "orbit":
        centre = centre + motion.swing * np.stack([np.cos(cycle), np.sin(cycle)], axis=1)
    elif motion.name == "zigzag":
        wave = 2 / np.pi * np.arcsin(np.sin(cycle))
        centre = centre + motion.swing * wave[:, None] * np.abs(_unit(motion.direction)[::-1])
    elif motion.name == "pulse":
        radii = body.radius * (1 + motion.swing * np.sin(cycle))
    if motion.arrival:
        radii = radii * np.clip((np.arange(end) - motion.arrival + 1) / GROWTH, 0, 1)
    return centre, radii


def _reflected(motion: Motion, low: np.ndarray, seed: int, end: int) -> np.ndarray:
    """Straight flight between walls with quarter turns: (end, 2)."""
    place = np.array(motion.place)
    if motion.speed == 0.0:
        return np.tile(place, (end, 1))
    (x, y), (vx, vy) = place, motion.speed * _unit(motion.direction)
    (x_low, y_low), (x_high, y_high) = low, FRAME_SIZE - low
    path = np.empty((end, 2))
    turns = 0
    for frame in range(end):
        path[frame] = x, y
        late = frame - motion.first_turn
        if motion.turn_every and late >= 0 and late % motion.turn_every == 0:
            sign = _turn_sign(seed, turns)
            vx, vy, turns = -sign * vy, sign * vx, turns + 1
        x, y = x + vx, y + vy
        if not x_low <= x <= x_high:
            x, vx = 2 * (x_low if x < x_low else x_high) - x, -vx
        if not y_low <= y <= y_high:
            y, vy = 2 * (y_low if y < y_low else y_high) - y, -vy
    return path
