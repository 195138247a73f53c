"""Finds clips in files and folders, and decodes them frame by frame.

A clip is a video file, or a folder that holds images. Only one frame is held at a time, however long the clip, and a
clip that is damaged raises `ClipError` with the reason instead of coming out short.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from magic141.data.pictures import as_rgb
from magic141.errors import InputError

Frame = NDArray[np.uint8]

VIDEOS = frozenset({".mp4", ".webm", ".gif", ".mov", ".mkv", ".avi", ".m4v"})
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})

_SLACK = 2.5
"""Frames by which a stream may end before the length that its file announces: containers round, and count from 0."""


class ClipError(InputError):
    """A clip that cannot be read or scored. `name` says which, `reason` why, in a few words."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)  # both, so that a worker process can send the error home
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a clip is: its unique name, its path, and whether that is a video file or a folder of images."""

    name: str
    path: Path
    kind: Literal["video", "images"]


def find(paths: Iterable[str | os.PathLike[str]]) -> list[Source]:
    """The clips in `paths`, each a video file or a folder that is searched with all its subfolders.

    A folder that holds images and no video is one clip; images beside videos are taken for previews. Hidden files
    and folders are left out. Names are paths relative to the folder that was given, with forward slashes; where two
    folders hold equal names, the folder's own name comes before them. The order is natural (clip2 before clip10).

    Raises:
        InputError: a path that does not exist or is no video, no clip at all, or names that stay equal.
    """
    # By resolved path, with the name of the folder that each was found from.
    found: dict[str, tuple[str, Source]] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{str(path)!r} does not exist; give video files or folders that hold them")
        if path.is_file() and path.suffix.lower() not in VIDEOS:
            raise InputError(
                f"{str(path)!r} is no video file ({_listed(VIDEOS)}); give a folder for a clip made of images"
            )
        folder = path.parent if path.is_file() else path
        given = folder.resolve().name
        for source in [Source(path.name, path, "video")] if path.is_file() else _inside(path):
            found.setdefault(os.path.realpath(source.path), (given, source))
    if not found:
        raise InputError(f"no clip found; a clip is a file ({_listed(VIDEOS)}) or a folder of images")
    counts = Counter(source.name for _, source in found.values())
    sources = [
        replace(source, name=f"{given}/{source.name}") if counts[source.name] > 1 else source
        for given, source in found.values()
    ]
    name, count = Counter(source.name for source in sources).most_common(1)[0]
    if count > 1:
        raise InputError(f"{count} clips are called {name!r}; rename a folder, or score them one by one")
    return sorted(sources, key=lambda source: _natural(source.name))


def _inside(root: Path) -> Iterator[Source]:
    for place, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        folder = Path(place)
        shown = [folder / name for name in files if not name.startswith(".")]
        videos = [path for path in shown if path.suffix.lower() in VIDEOS]
        for path in videos:
            yield Source(path.relative_to(root).as_posix(), path, "video")
        if not videos and any(path.suffix.lower() in IMAGES for path in shown):
            name = root.resolve().name if folder == root else folder.relative_to(root).as_posix()
            yield Source(name, folder, "images")


def frames(source: Source) -> Iterator[Frame]:
    """The frames of a clip in order, uint8 (H, W, 3) RGB, decoded one by one.

    Raises:
        ClipError: the file is empty, cut off, damaged or no video, or its frames differ in size. Damage far into a
            file shows when the iteration gets there.
    """
    shape: tuple[int, ...] | None = None
    for frame in _decoded(source) if source.kind == "video" else _images(source):
        if shape is not None and frame.shape != shape:
            sizes = f"{shape[1]}x{shape[0]} and {frame.shape[1]}x{frame.shape[0]}"
            raise ClipError(source.name, f"frames of different sizes, {sizes}; resize them")
        shape = frame.shape
        yield frame
    if shape is None:
        raise ClipError(source.name, "holds no frame")


def fps(source: Source) -> float | None:
    """Frames per second as a video file states them; None for images, or where it states nothing.

    Raises:
        ClipError: the file cannot be opened.
    """
    if source.kind == "images":
        return None
    try:
        with _opened(source) as container:
            rate = container.streams.video[0].average_rate
    except (av.error.FFmpegError, OSError) as error:
        raise ClipError(source.name, _reason(error)) from error
    return float(rate) if rate else None


def _opened(source: Source) -> av.container.InputContainer:
    if source.path.stat().st_size == 0:
        raise ClipError(source.name, "empty file (0 bytes)")
    container = av.open(os.fspath(source.path))
    if not container.streams.video:
        container.close()
        raise ClipError(source.name, "no video stream: no video, or cut off")
    return container


def _decoded(source: Source) -> Iterator[Frame]:
    packets, end = 0, 0.0
    try:
        with _opened(source) as container:
            stream = container.streams.video[0]
            announced, length = _announced(container, stream)
            for packet in container.demux(stream):
                packets += packet.size > 0
                for frame in packet.decode():
                    if packet.is_corrupt or frame.is_corrupt:
                        raise ClipError(source.name, f"damaged or cut off at packet {packets}")
                    end = max(end, frame.time or 0.0)
                    yield _upright(frame)
            frame_time = float(1 / stream.average_rate) if stream.average_rate else 0.0
    except (av.error.FFmpegError, OSError) as error:
        raise ClipError(source.name, _reason(error)) from error
    # Packets and not frames are counted: an edit list may rightly hide some of the frames that a file holds.
    if packets < announced:
        raise ClipError(source.name, f"cut off: {packets} of {announced} frames")
    if length and end + _SLACK * frame_time < length:
        raise ClipError(source.name, f"cut off: {end + frame_time:.2f} of {length:.2f} seconds")
    if source.path.suffix.lower() == ".gif" and not _gif_ends(source.path):
        raise ClipError(source.name, "cut off: the GIF has no end mark")


def _upright(frame: av.VideoFrame) -> Frame:
    """As players show it: phones store a picture on its side, and the quarter turns that set it up."""
    pixels = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


def _announced(container: av.container.InputContainer, stream: av.VideoStream) -> tuple[int, float]:
    """Frames and seconds that the file says it has; 0 where it says nothing, or speaks of other streams too."""
    if stream.frames:
        return stream.frames, 0.0
    alone = len(container.streams) == 1 and container.format.name.startswith("matroska")
    return 0, container.duration / av.time_base if alone and container.duration else 0.0


def _gif_ends(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1024))
        return file.read().rstrip(b"\0").endswith(b";")


def read_image(path: Path) -> Frame:
    """An image file, upright, as uint8 (H, W, 3) RGB; greys of 16 bits are brought to 8.

    Raises:
        InputError: its pixels have no white, so that nobody knows how bright they are.
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: it is missing, no image, damaged or too large.
    """
    with Image.open(path) as image:
        return np.asarray(as_rgb(ImageOps.exif_transpose(image)), dtype=np.uint8)


def _images(source: Source) -> Iterator[Frame]:
    names = [path for path in source.path.iterdir() if path.suffix.lower() in IMAGES]
    for path in sorted(names, key=lambda path: _natural(path.name)):
        if path.name.startswith("."):
            continue
        try:
            yield read_image(path)
        except InputError as error:
            raise ClipError(source.name, f"{path.name}: {error}") from error
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            empty = path.stat().st_size == 0
            reason = "empty file (0 bytes)" if empty else "no image, or damaged"
            raise ClipError(source.name, f"{path.name}: {reason}") from error


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sorts digits by their value, and ignores case first: frame2, Frame10."""
    # Text and digits come by turns, so that like is compared with like.
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _listed(suffixes: frozenset[str]) -> str:
    return ", ".join(sorted(suffix[1:] for suffix in suffixes))


def _reason(error: Exception) -> str:
    said = getattr(error, "strerror", None) or str(error)
    return f"no video, or damaged or cut off ({said})" if isinstance(error, av.error.FFmpegError) else said
