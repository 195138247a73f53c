"""Video files and images at the edge of the pipeline: uint8 arrays (T, H, W, 3) in, uint8 arrays out.

Imports no torch.
"""

import os
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from magic141.arguments import check_fps
from magic141.errors import InputError

Frames = npt.NDArray[np.uint8]

# At 64x64 a clip is a few tens of kB whatever we do, so nothing is saved by a lower quality. BT.601 is what
# players assume of a picture this small, and what swscale converts to; the file says so all the same.
_CRF = "8"
_COLOURS = "colorprim=smpte170m:transfer=smpte170m:colormatrix=smpte170m"
# x264 chose its B-frames differently in one of two equal runs here; without them, equal frames give equal bytes.
_X264 = f"{_COLOURS}:bframes=0"


def write_video(path: str | os.PathLike[str], frames: Frames, fps: float) -> None:
    """Write `frames` (T, H, W, 3) uint8 as H.264 in yuv420p, which every player plays. H and W must be even.

    The file appears whole or not at all, and the same frames give the same bytes. Chroma has half the
    resolution: measure arrays, not decoded files.

    Raises InputError: frames of another shape or type, odd sizes, or a path that cannot be written.
    """
    check_fps(fps)
    target = check_writable(path)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise InputError(f"frames must be uint8 (T, H, W, 3) with T > 0, got {frames.dtype} {frames.shape}")
    _, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise InputError(
            f"frames are {width}x{height}; H.264 in yuv420p needs even sides: crop or pad one pixel"
        )

    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        _encode(partial, frames, fps)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _encode(path: Path, frames: Frames, fps: float) -> None:
    options = {"crf": _CRF, "preset": "veryfast", "x264-params": _X264}
    with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # x264's output depends on the number of threads
        for array in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


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
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"cannot read an image from {os.fspath(path)!r}: {_reason(error)}. Give a PNG, JPEG or WebP file"
        ) from error


def check_writable(path: str | os.PathLike[str]) -> Path:
    """`path`, once it is known that a file can be written there; leaves nothing behind. Raises InputError."""
    target = Path(path).expanduser()
    if target.is_dir():
        raise InputError(f"output {str(target)!r} is a folder: name a file in it, such as clip.mp4")
    if not target.parent.is_dir():
        raise InputError(f"output folder {str(target.parent)!r} does not exist: create it first")
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise InputError(
            f"output folder {str(target.parent)!r} cannot be written ({_reason(error)}): choose another"
        ) from error
    return target


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
