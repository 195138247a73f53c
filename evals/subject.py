"""Finds the subject of a known scene in the pixels of a clip, without a network.

The worlds of inks and of backdrops lie apart in colour: inks are vivid, while backdrops and textures are nearly grey,
whatever their brightness. So take the chroma c of a pixel, its colour less its own mean over the channels (two numbers,
in grey levels), and let m be the median chroma of the clip, which is its backdrop's. How much ink k covers a pixel is

    a_k = (c - m) . e_k / |e_k|^2,    e_k = chroma of ink k - m,

and a pixel belongs to the ink whose hue is nearest (largest (c - m) . e_k / |e_k|) where that a_k is over `COVERED`. An
*object* is a connected patch of one ink of at least `SPECK` pixels. The *subject* is the object in the asked ink, or,
where a frame has none, in any other, if it has `LEAST` of the area that the caption gives; among several it is the one
that lies nearest to where the subject was and has nearest the asked size. Two objects of one ink that touch are one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from magic141.data.factors import FRAME_SIZE, MOTIONS, RADII
from magic141.data.render import INKS, masks
from magic141.data.world import Look, Scene, World
from magic141.errors import InputError

Array = NDArray[np.float64]
_INKS = np.array(INKS, np.float32)
"""RGB of the world's inks, in the order of COLOURS."""
COVERED = 0.5
NEAR = 40.0
"""Grey levels of chroma: an ink nearer to the backdrop is not told from it. None of the world's is."""
SPECK = 30
"""Square pixels: a third of the smallest object."""
LEAST = 0.3
"""Part of the asked area: a pulse shrinks to 0.5."""
_PLANE = np.array([(1, 1), (-1, 1), (0, -2)])
"""Two directions of colour across that of grey."""
_LENGTHS = np.linalg.norm(_PLANE, axis=0)


@dataclass(frozen=True)
class Track:
    """The subject over time, NaN where it is not found.

    centres: (T, 2) pixels, x right and y down. areas: (T,) square pixels. colours: (T, 3) mean RGB of its inside.
    inks: (T,) index into COLOURS, -1 where it is not found. shapes: bool (T, 64, 64), its pixels.
    same, others: (T,) how many objects of the asked ink and of other inks are in view. covered: bool (T, 64, 64),
    the pixels of all of them.
    """

    centres: Array
    areas: Array
    colours: Array
    inks: NDArray[np.int64]
    shapes: NDArray[np.bool_]
    same: NDArray[np.int64]
    others: NDArray[np.int64]
    covered: NDArray[np.bool_]


class _Objects(NamedTuple):
    """Every object of a clip, one a row: its frame, ink, area, centre (2,), and number in patches[ink] (T, 64, 64)."""

    frame: NDArray[np.int64]
    ink: NDArray[np.int64]
    area: Array
    centre: Array
    number: NDArray[np.int64]
    patches: dict[int, NDArray[np.int32]]


def locate(clip: NDArray[np.uint8], scene: Scene) -> Track:
    """Follow the subject of a scene through uint8 (T, 64, 64, 3).

    Raises:
        InputError: another type or shape.
    """
    if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[1:] != (FRAME_SIZE, FRAME_SIZE, 3):
        raise InputError(
            f"a clip must be uint8 (T, {FRAME_SIZE}, {FRAME_SIZE}, 3), got {clip.dtype} {clip.shape}"
        )
    clip = np.ascontiguousarray(clip)  # what `render` gives is not, and costs twice the time
    objects = _objects(clip)
    asked = objects.ink == scene.subject.colour
    rows = _chosen(objects, asked, scene, len(clip))
    frames = objects.frame[rows]
    track = Track(
        centres=np.full((len(clip), 2), np.nan),
        areas=np.full(len(clip), np.nan),
        colours=np.full((len(clip), 3), np.nan),
        inks=np.full(len(clip), -1),
        shapes=np.zeros(clip.shape[:3], bool),
        same=np.bincount(objects.frame[asked], minlength=len(clip)),
        others=np.bincount(objects.frame[~asked], minlength=len(clip)),
        covered=np.zeros(clip.shape[:3], bool),
    )
    track.centres[frames], track.areas[frames] = objects.centre[rows], objects.area[rows]
    track.inks[frames] = objects.ink[rows]
    for ink, patches in objects.patches.items():
        number = np.full(len(clip), -1, np.int32)
        number[frames[objects.ink[rows] == ink]] = objects.number[rows[objects.ink[rows] == ink]]
        track.shapes[:] |= patches == number[:, None, None]
        counted = np.zeros(patches.max() + 1, bool)
        counted[objects.number[objects.ink == ink]] = True
        track.covered[:] |= counted[patches]
    inside = each(cv2.erode, track.shapes, 3)
    thin = ~inside.any(axis=(1, 2))
    inside[thin] = track.shapes[thin]
    when, pixels = np.nonzero(inside)[0], clip[inside]
    sums = np.stack([np.bincount(when, channel, len(clip)) for channel in pixels.T], axis=1)
    track.colours[frames] = sums[frames] / np.bincount(when, minlength=len(clip))[frames, None]
    return track


def _chosen(objects: _Objects, asked: NDArray[np.bool_], scene: Scene, frames: int) -> NDArray[np.int64]:
    """Rows of the objects that are the subject, at most one a frame."""
    radius = RADII[scene.subject.size]
    area = area_of(scene.subject.shape) * radius**2
    strangeness = radius * np.abs(np.log(objects.area / area))
    chosen: list[int] = []
    for frame in range(frames):
        rows = np.flatnonzero((objects.frame == frame) & (objects.area > LEAST * area))
        rows = rows[asked[rows]] if asked[rows].any() else rows
        if len(rows) > 1 and chosen:
            step = np.linalg.norm(objects.centre[rows] - objects.centre[chosen[-1]], axis=1)
            chosen.append(rows[(strangeness[rows] + step).argmin()])
        elif len(rows):
            chosen.append(rows[strangeness[rows].argmin()])
    return np.array(chosen, dtype=np.int64)


def _objects(clip: NDArray[np.uint8]) -> _Objects:
    """Patches of at least `SPECK` square pixels, in every ink."""
    red, green, blue = (part.astype(np.int16) for part in cv2.split(clip.reshape(-1, FRAME_SIZE, 3)))
    chroma = np.stack([red - green, red + green - 2 * blue])
    backdrop = np.median(chroma[:, ::5, ::3], axis=(1, 2)).round()
    chroma -= backdrop.astype(np.int16)[:, None, None]
    hues = (_INKS @ _PLANE - backdrop) / _LENGTHS
    lengths = np.maximum(np.linalg.norm(hues, axis=1), NEAR)
    # Far from the backdrop along either axis: the few pixels that are worth a closer look.
    reach = COVERED * lengths.min() * _LENGTHS / math.sqrt(2)
    vivid = np.flatnonzero((np.abs(chroma) > reach[:, None, None]).any(axis=0))
    along = (chroma.reshape(2, -1)[:, vivid].T / _LENGTHS) @ (hues / lengths[:, None]).T
    ink = along.argmax(axis=1)
    covered = along[np.arange(len(ink)), ink] > COVERED * lengths[ink]
    nearest = np.full(clip.shape[:3], -1, np.int8)
    nearest.reshape(-1)[vivid[covered]] = ink[covered]
    parts, patches = [], {}
    for k in np.flatnonzero(np.bincount(ink[covered], minlength=len(_INKS)) >= SPECK):
        # An empty row between frames, so that one call finds the patches of them all.
        column = np.pad(nearest == k, ((0, 0), (0, 1), (0, 0))).reshape(-1, FRAME_SIZE).view(np.uint8)
        _, numbers, boxes, centres = cv2.connectedComponentsWithStats(column, connectivity=4)
        patches[int(k)] = numbers.reshape(len(clip), FRAME_SIZE + 1, FRAME_SIZE)[:, :-1]
        rows = 1 + np.flatnonzero(boxes[1:, cv2.CC_STAT_AREA] >= SPECK)
        frame = boxes[rows, cv2.CC_STAT_TOP] // (FRAME_SIZE + 1)
        # Pixel i spans i to i + 1.
        centre = centres[rows] + 0.5 - np.stack([0 * frame, frame * (FRAME_SIZE + 1)], axis=-1)
        parts.append((frame, np.full(len(rows), k), boxes[rows, cv2.CC_STAT_AREA], centre, rows))
    if not parts:
        nothing = np.empty(0, np.int64)
        return _Objects(nothing, nothing, np.empty(0), np.empty((0, 2)), nothing, {})
    frame, inks, areas, centres, numbers = (np.concatenate(part) for part in zip(*parts, strict=True))
    return _Objects(frame, inks, areas, centres, numbers, patches)


def each(operation: Callable[..., Any], shapes: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """A morphological operation with a square of odd `side`, on every frame of bool (T, H, W)."""
    channels = np.ascontiguousarray(shapes.transpose(1, 2, 0)).view(np.uint8)
    found = operation(channels, np.ones((side, side), np.uint8))
    return found.reshape(channels.shape).transpose(2, 0, 1).astype(bool)


@cache
def model(shape: int) -> NDArray[np.bool_]:
    """A large subject of a shape, at rest in the middle: bool (64, 64)."""
    scene = World(events=False, moving_texture=0.0).scene("test", 0)
    middle = FRAME_SIZE / 2
    rest = replace(scene.motion, name="still", law=MOTIONS.index("still"), speed=0.0, place=(middle, middle))
    look = Look(shape, 0, len(RADII) - 1)
    found: NDArray[np.bool_] = masks([replace(scene, subject=look, motion=rest)], 1)[0, 0].numpy()
    return found


def area_of(shape: int) -> float:
    """Area of a shape of radius 1."""
    return float(model(shape).sum()) / RADII[-1] ** 2
