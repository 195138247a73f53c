"""Video files and images at the edge of the pipeline: uint8 arrays (T, H, W, 3) in, uint8 arrays out.

Imports no torch.
"""

import os
import tempfile
import zlib
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
import numpy.typing as npt
from av.container import OutputContainer
from av.video.stream import VideoStream
from PIL import Image, ImageOps

from magic141.arguments import check_fps
from magic141.data.pictures import as_rgb
from magic141.errors import InputError

Frames = npt.NDArray[np.uint8]

# At 64x64 a clip is a few tens of kB whatever we do, so nothing is saved by a lower quality. BT.601 is what
# players assume of a picture this small, and what swscale converts to; the file says so all the same.
_CRF = "8"
_COLOURS = "colorprim=smpte170m:transfer=smpte170m:colormatrix=smpte170m"
# x264 chose its B-frames differently in one of two equal runs here; without them, equal frames give equal bytes.
_X264 = f"{_COLOURS}:bframes=0"
# A fragment a frame: whatever has reached the disk plays, and nothing waits in a buffer.
_FRAGMENTED = {"movflags": "+frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"}
_INDEXED = {"movflags": "+faststart"}


def write_video(path: str | os.PathLike[str], frames: Frames, fps: float) -> None:
    """Write `frames` (T, H, W, 3) uint8 as H.264 in yuv420p, which every player plays. H and W must be even.

    The file appears whole or not at all, and the same frames give the same bytes. Chroma has half the
    resolution: measure arrays, not decoded files.

    Raises InputError: frames of another shape or type, odd sizes, a path that cannot be written, a full disk.
    """
    check_fps(fps)
    target = check_writable(path)
    _check_frames(frames)
    partial = _partial(target)
    try:
        with av.open(partial, "w", format="mp4", options=_INDEXED) as container:
            stream = _add_stream(container, frames, fps, _X264)
            for frame in frames:
                _encode(container, stream, frame)
            container.mux(stream.encode(None))
        partial.replace(target)
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(
            f"cannot write {str(target)!r} ({_reason(error)}): make room, or choose another name or folder"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


class VideoWriter:
    """Writes a video like `write_video`, but while its frames are made: a context manager.

    The file appears with the first frames and plays up to the last ones written, however the process ends. At the end,
    also one by an error, an index of the whole is put in front, as `write_video` does.

    Raises InputError: as `write_video`, and when the disk is full; `frames` counts those written.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float) -> None:
        check_fps(fps)
        self.path, self.fps, self.frames = check_writable(path), fps, 0
        self._container: OutputContainer | None = None
        self._stream: VideoStream
        self._shape: tuple[int, ...]
        self._whole = 0  # bytes of the file up to the last fragment that is known to be there

    def write(self, frames: Frames) -> None:
        """Append `frames` (T, H, W, 3) uint8, all of one size."""
        _check_frames(frames)
        try:
            if self._container is None:
                container = av.open(self.path, "w", format="mp4", options=_FRAGMENTED)
                # Without looking ahead, the encoder holds no frame back.
                self._stream = _add_stream(container, frames, self.fps, f"{_X264}:rc-lookahead=0")
                self._container, self._shape = container, frames.shape[1:]
            if frames.shape[1:] != self._shape:
                raise InputError(
                    f"frames have shape {frames.shape[1:]} after frames of {self._shape}: resize them"
                )
            for frame in frames:
                if _encode(self._container, self._stream, frame):  # before the first packet there is no file
                    self._whole = self.path.stat().st_size
                self.frames += 1
        except (av.error.FFmpegError, OSError) as error:
            raise self._failed(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._container is None:
            return
        try:
            try:
                self._container.mux(self._stream.encode(None))
            finally:
                self._container.close()
            self._whole = self.path.stat().st_size
            _put_index_first(self.path)
        except (av.error.FFmpegError, OSError) as late:
            os.truncate(self.path, self._whole)  # not all players forgive half a fragment
            if kind is None:
                raise self._failed(late) from late

    def _failed(self, error: Exception) -> InputError:
        return InputError(
            f"cannot go on writing {str(self.path)!r} ({_reason(error)}): it plays up to about frame {self.frames}; "
            "make room, or choose another folder"
        )


def _check_frames(frames: Frames) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise InputError(f"frames must be uint8 (T, H, W, 3) with T > 0, got {frames.dtype} {frames.shape}")
    _, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise InputError(
            f"frames are {width}x{height}; H.264 in yuv420p needs even sides: crop or pad one pixel"
        )


def _partial(target: Path) -> Path:
    """Beside `target`, with a name that is not too long where the target's is not."""
    return target.with_name(f".{zlib.crc32(target.name.encode()):08x}.{os.getpid()}.partial")


def _add_stream(container: OutputContainer, frames: Frames, fps: float, x264: str) -> VideoStream:
    options = {"crf": _CRF, "preset": "veryfast", "x264-params": x264}
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = "yuv420p"
    stream.thread_count = 1  # x264's output depends on the number of threads
    return stream


def _encode(container: OutputContainer, stream: VideoStream, frame: Frames) -> bool:
    """Append a frame (H, W, 3). Returns whether the encoder gave anything to write."""
    packets = stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
    container.mux(packets)
    return bool(packets)


def _put_index_first(path: Path) -> None:
    """Copy the fragments of a video into one indexed whole, in its place, without encoding them again."""
    partial = _partial(path)
    try:
        with av.open(path) as source, av.open(partial, "w", format="mp4", options=_INDEXED) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            copied = 0
            for packet in source.demux(video=0):
                if packet.dts is not None:  # None marks the end
                    packet.stream = stream
                    target.mux(packet)
                    copied += 1
        if copied:  # or the fragments, which play as well, are all that there is
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_video(path: str | os.PathLike[str]) -> tuple[Frames, float]:
    """The frames (T, H, W, 3) uint8 of a video file and its frames per second.

    Raises InputError for a file that is missing or holds no video.
    """
    try:
        with av.open(os.fspath(path)) as container:
            if not container.streams.video:
                raise InputError(f"{os.fspath(path)} has no video stream: give an mp4 or another video file")
            rate = container.streams.video[0].average_rate
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"cannot read a video from {os.fspath(path)!r}: {_reason(error)}") from error
    if not frames:
        raise InputError(f"{os.fspath(path)} holds no frame: the file may be cut off")
    return np.stack(frames), float(rate or 0)


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """An image file as an upright RGB image. Raises InputError for a file that is missing or no image."""
    try:
        with Image.open(path) as image:
            return as_rgb(ImageOps.exif_transpose(image))
    except InputError as error:
        raise InputError(f"image {os.fspath(path)!r} cannot be used: {error}") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"cannot read an image from {os.fspath(path)!r}: {_reason(error)}. Give a PNG, JPEG or WebP file"
        ) from error


def check_writable(path: str | os.PathLike[str]) -> Path:
    """`path`, once it is known that a file can be written there; leaves nothing behind. Raises InputError."""
    target = Path(path).expanduser()
    try:
        if target.is_dir():
            raise InputError(f"output {str(target)!r} is a folder: name a file in it, such as clip.mp4")
        if not target.parent.is_dir():
            raise InputError(f"output folder {str(target.parent)!r} does not exist: create it first")
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise InputError(
            f"output folder {str(target.parent)!r} cannot be written ({_reason(error)}): choose another"
        ) from error
    return target


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
