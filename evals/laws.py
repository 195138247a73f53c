"""Which member of a motion law fits a measured track best: what the caption asks for, its hidden numbers left free.

A caption says the law, and of a drift the direction; speed, place, phase, period and turns are hidden, so a clip is
wrong only as far as it is away from *every* member of the law. The members are those of `magic141.data.motion`, with
hidden numbers in the ranges that the world draws from: a subject at rest is no slow drift. Fits are least squares over
the frames in which the subject was found, by dictionaries of curves and then a finer search around the best:

    still    p(t) = c
    pulse    p(t) = c, r(t) = R (1 + 0.3 sin(2 pi t / P + phi))
    orbit    p(t) = c + A (cos, sin)(2 pi t / P + phi), P of either sign; closed form for each P
    zigzag   along one axis a straight flight between walls, across it c + A triangle(t / P + phi)
    drift    a straight flight between walls at one speed, turned by a quarter at most twice, 16 frames apart
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from magic141.data.factors import FRAME_SIZE, MOTIONS, RADII
from magic141.data.motion import heading
from magic141.data.world import Scene

Array = NDArray[np.float64]
SPEEDS = (0.45, 1.3)
"""Pixels a frame."""
PERIODS = (18.0, 34.0)
"""Frames."""
ORBITS = (7.0, 14.0)
"""Radius in pixels."""
ZIGZAGS = (5.0, 8.0)
"""Amplitude in pixels."""
SWELL = 0.3
"""Relative amplitude of a pulse."""
STRAIGHT = 9
"""A drift neither turns nor meets a wall in its first 9 frames."""
APART = 16
"""Least number of frames between turns."""


class Fit(NamedTuple):
    """The best member. path: (T, 2) in pixels. radii: (T,) of a pulse, else None."""

    path: Array
    radii: Array | None


def fit(track: Array, radii: Array, scene: Scene) -> Fit:
    """The member of the scene's said law nearest to a track.

    Args:
        track: (T, 2) centres in pixels from frame 0 on, NaN where unknown, known in at least one frame.
        radii: (T,) measured radii in pixels, NaN likewise.
    """
    known = np.isfinite(track[:, 0])
    rest = np.broadcast_to(track[known].mean(axis=0), track.shape)
    radius = RADII[scene.subject.size]
    match MOTIONS[scene.motion.law]:
        case "orbit":
            return Fit(_orbit(track, known), None)
        case "zigzag":
            return Fit(_zigzag(track, known, radius), None)
        case "drift":
            said = heading(scene.truth(1).velocity[0, 0]) if scene.direction_said else None
            return Fit(_drift(track, known, radius, said), None)
        case "pulse":
            return Fit(rest, _swollen(radii, known))
        case _:
            return Fit(rest, None)


def flight(place: Array, velocity: Array, turns: Array, radius: float, num_frames: int) -> Array:
    """Straight flight between walls, many at once: (M, T, 2).

    Args:
        place, velocity: (M, 2), pixels and pixels a frame, at frame 0.
        turns: (M, k, 2), frame and sign (1 clockwise on screen) of quarter turns, frames rising; a turn that is
            none has sign 0 and a frame of at least num_frames.
    """
    clock = np.arange(num_frames, dtype=np.float64)[:, None]
    path, _ = _folded(place[:, None] + velocity[:, None] * clock, radius)
    for number in range(turns.shape[1]):
        frame, sign = turns[:, number, 0], turns[:, number, 1]
        place, mirror = _folded(place + velocity * frame[:, None], radius)
        x, y = np.moveaxis(velocity * mirror, -1, 0)
        turned = np.stack([-sign * y, sign * x], axis=-1)
        velocity = np.where(sign[:, None] == 0, np.stack([x, y], axis=-1), turned)
        since = clock - frame[:, None, None]
        later, _ = _folded(place[:, None] + velocity[:, None] * since, radius)
        path = np.where(since > 0, later, path)
        place = place - velocity * frame[:, None]  # so that the next turn counts from frame 0 too
    return path


def _folded(straight: Array, radius: float) -> tuple[Array, Array]:
    """Straight lines (...) reflected into [radius, FRAME_SIZE - radius], and the sign of their direction there.

    Once: no subject crosses the picture in one clip.
    """
    inside = np.clip(straight, radius, FRAME_SIZE - radius)
    return 2 * inside - straight, np.where(straight == inside, 1.0, -1.0)


def _orbit(track: Array, known: NDArray[np.bool_]) -> Array:
    turn = _circles(len(track))
    z = track[:, 0] + 1j * track[:, 1]
    centred = turn[:, known] - turn[:, known].mean(axis=1, keepdims=True)
    signal = z[known] - z[known].mean()
    weight = (np.abs(centred) ** 2).sum(axis=1)
    match = centred.conj() @ signal
    swing = np.clip(np.abs(match) / weight, *ORBITS)
    error = swing**2 * weight - 2 * swing * np.abs(match)
    best = int(error.argmin())
    circle = swing[best] * np.exp(1j * np.angle(match[best])) * turn[best]
    path = circle + (z[known] - circle[known]).mean()
    return np.stack([path.real, path.imag], axis=-1)


@cache
def _circles(num_frames: int) -> NDArray[np.complex128]:
    periods = np.linspace(*PERIODS, 193)
    rate = 2j * np.pi / np.concatenate([periods, -periods])
    return np.exp(rate[:, None] * np.arange(num_frames))


def _zigzag(track: Array, known: NDArray[np.bool_], radius: float) -> Array:
    paths = []
    for along in (0, 1):
        path = np.empty_like(track)
        path[:, along] = _line(track[:, along], known, radius)
        path[:, 1 - along] = _wave(track[:, 1 - along], known, _triangles)
        paths.append(path)
    return min(paths, key=lambda path: float(((track - path)[known] ** 2).sum()))


def _line(x: Array, known: NDArray[np.bool_], radius: float) -> Array:
    """Best straight flight along one axis: (T,)."""
    places = np.arange(radius, FRAME_SIZE - radius + 1)
    speeds = np.linspace(*SPEEDS, 18)
    grid = _pairs(places, np.concatenate([speeds, -speeds]))
    step = np.array([1.0, 0.05])
    while True:
        curves, _ = _folded(grid[:, :1] + grid[:, 1:] * np.arange(len(x)), radius)
        best = int(((curves - x)[:, known] ** 2).sum(axis=1).argmin())
        if step[0] < 0.1:
            return curves[best]
        grid = grid[best] + _pairs(*np.linspace(-step, step, 9).T)
        grid[:, 1] = np.sign(grid[:, 1]) * np.clip(np.abs(grid[:, 1]), *SPEEDS)
        step = step / 4


def _wave(x: Array, known: NDArray[np.bool_], waves: Callable[[Array, Array, int], Array]) -> Array:
    """Best c + A wave(t / P + phi) with A in `ZIGZAGS`: (T,)."""
    return _search(waves, lambda curves: _scaled(curves, x, known), len(x))


def _swollen(radii: Array, known: NDArray[np.bool_]) -> Array:
    """Best R (1 + SWELL sin(2 pi t / P + phi)) with any R: (T,)."""

    def scaled(curves: Array) -> tuple[Array, Array]:
        seen = curves[:, known]
        size = seen @ radii[known] / (seen**2).sum(axis=1)
        return size[:, None] * curves, size**2 * (seen**2).sum(axis=1) - 2 * size * (seen @ radii[known])

    return _search(_swells, scaled, len(radii))


def _scaled(curves: Array, x: Array, known: NDArray[np.bool_]) -> tuple[Array, Array]:
    middle = curves[:, known].mean(axis=1, keepdims=True)
    seen = curves[:, known] - middle
    match, weight = seen @ (x[known] - x[known].mean()), (seen**2).sum(axis=1)
    swing = np.clip(match / weight, *ZIGZAGS)
    return x[known].mean() + swing[:, None] * (curves - middle), swing**2 * weight - 2 * swing * match


def _search(
    waves: Callable[[Array, Array, int], Array],
    scaled: Callable[[Array], tuple[Array, Array]],
    num_frames: int,
) -> Array:
    """The curve of least error over periods and phases, on a grid and then on a finer one around its best."""
    periods, phases = _grid()
    curves, error = scaled(_dictionary(waves, num_frames))
    best = int(error.argmin())
    near = _pairs(np.linspace(-0.5, 0.5, 9), np.linspace(-1 / 48, 1 / 48, 9))
    curves, error = scaled(
        waves(np.clip(periods[best] + near[:, 0], *PERIODS), phases[best] + near[:, 1], num_frames)
    )
    return curves[int(error.argmin())]


@cache
def _grid() -> tuple[Array, Array]:
    periods, phases = _pairs(np.linspace(*PERIODS, 33), np.arange(48) / 48).T
    return periods, phases


@cache
def _dictionary(waves: Callable[[Array, Array, int], Array], num_frames: int) -> Array:
    return waves(*_grid(), num_frames)


def _triangles(periods: Array, phases: Array, num_frames: int) -> Array:
    return 2 / np.pi * np.arcsin(np.sin(_cycles(periods, phases, num_frames)))


def _swells(periods: Array, phases: Array, num_frames: int) -> Array:
    return 1 + SWELL * np.sin(_cycles(periods, phases, num_frames))


def _cycles(periods: Array, phases: Array, num_frames: int) -> Array:
    return 2 * np.pi * (np.arange(num_frames) / periods[:, None] + phases[:, None])


def _pairs(a: Array, b: Array) -> Array:
    return np.stack([grid.ravel() for grid in np.meshgrid(a, b, indexing="ij")], axis=-1)


def _drift(track: Array, known: NDArray[np.bool_], radius: float, said: int | None) -> Array:
    """Best flight with any speed, place and turns, in the said direction or else in any of the eight."""
    num_frames = len(track)
    directions = np.arange(8) if said is None else np.array([said])
    none = (float(num_frames), 0.0)
    first = np.array([none, *product(range(STRAIGHT, num_frames - 1), (-1.0, 1.0))])
    speeds, directions, choice = (
        grid.ravel()
        for grid in np.meshgrid(np.linspace(*SPEEDS, 12), directions, np.arange(len(first)), indexing="ij")
    )
    turns = first[choice][:, None]
    _, error = _flights(track, known, radius, speeds, directions, turns)
    closer = [
        (speeds[row] + change, directions[row], turns[row, 0], second)
        for row in error.argsort()[:6]
        for change in (-0.04, 0.0, 0.04)
        for second in (none, *_seconds(turns[row, 0], num_frames))
    ]
    speeds, directions = (np.array([member[i] for member in closer]) for i in (0, 1))
    turns = np.array([member[2:] for member in closer])
    paths, error = _flights(track, known, radius, speeds, directions, turns)
    best = int(error.argmin())
    return _polished(track, known, radius, speeds[best], directions[best], turns[best], paths[best, 0])


def _seconds(first: Array, num_frames: int) -> Iterator[tuple[float, float]]:
    """Second turns that may follow a first one."""
    return product(np.arange(first[0] + APART, num_frames - 1), (-1.0, 1.0))


def _flights(
    track: Array, known: NDArray[np.bool_], radius: float, speeds: Array, directions: Array, turns: Array
) -> tuple[Array, Array]:
    """Flights (M, T, 2) from the place that fits their first frames, and their squared errors (M,)."""
    angle = directions * (np.pi / 4)
    velocity = speeds[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    early = np.flatnonzero(known[:STRAIGHT]) if known[:STRAIGHT].any() else np.flatnonzero(known)
    place = track[early].mean(axis=0) - velocity * early.mean()
    paths = flight(place, velocity, turns, radius, len(track))
    # Shifted to where they fit best as a whole; what a shift would change in when they meet a wall is polished later.
    paths = paths + (track - paths)[:, known].mean(axis=1, keepdims=True)
    return paths, ((track - paths)[:, known] ** 2).sum(axis=(1, 2))


def _polished(
    track: Array,
    known: NDArray[np.bool_],
    radius: float,
    speed: float,
    direction: float,
    turns: Array,
    place: Array,
) -> Array:
    """The flight (T, 2) with a speed and a place nearby that fit best."""
    angle = direction * (np.pi / 4)
    unit = np.array([np.cos(angle), np.sin(angle)])
    numbers, step = np.array([speed, *place]), np.array([0.04, 1.0, 1.0])
    nearby = np.array(list(product((-1.0, -0.5, 0.0, 0.5, 1.0), repeat=3)))
    for _ in range(5):
        members = numbers + step * nearby
        members[:, 0] = np.clip(members[:, 0], *SPEEDS)
        turning = np.broadcast_to(turns, (len(members), *turns.shape))
        paths = flight(members[:, 1:], members[:, :1] * unit, turning, radius, len(track))
        best = int(((track - paths)[:, known] ** 2).sum(axis=(1, 2)).argmin())
        numbers, step = members[best], step / 2
    return paths[best]
