import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from magic141 import video
from magic141.errors import InputError
from magic141.video import Frames, VideoWriter, check_writable, read_image, read_video, write_video

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX")


def gradient(frames: int, height: int = 64, width: int = 64) -> Frames:
    """A grey ramp that moves one pixel a frame: no chroma to lose, edges to keep."""
    x = (np.arange(width)[None, None] * 3 + np.arange(frames)[:, None, None] * 3) % 256
    return np.broadcast_to(x[..., None], (frames, height, width, 3)).astype(np.uint8)


@settings(max_examples=15)
@given(
    frames=st.integers(1, 12),
    height=st.integers(8, 33).map(lambda n: 2 * n),
    width=st.integers(8, 33).map(lambda n: 2 * n),
    fps=st.sampled_from([1, 8, 12.5, 16, 24, 29.97, 60]),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, frames: int, height: int, width: int, fps: float
) -> None:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    written = gradient(frames, height, width)
    write_video(path, written, fps)
    read, rate = read_video(path)
    assert read.shape == written.shape
    assert rate == pytest.approx(fps, rel=1e-3)
    mse = np.mean((read.astype(float) - written) ** 2)
    assert mse < 255**2 / 10**4, "grey frames come back at 40 dB or better"


def test_colours_survive(tmp_path: Path) -> None:
    """A matrix or range mix-up shifts flat colours by ten levels and more."""
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128], [255, 255, 0]], np.uint8)
    for colour in colours:
        frames = np.broadcast_to(colour, (5, 64, 64, 3)).copy()
        write_video(tmp_path / "clip.mp4", frames, 16)
        read, _ = read_video(tmp_path / "clip.mp4")
        assert np.abs(read.astype(int) - frames).max() <= 3


def test_players_play_it(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", gradient(33), 16)
    with av.open(tmp_path / "clip.mp4") as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.frames) == ("h264", "yuv420p", 33)
        assert float(stream.duration * stream.time_base) == 33 / 16
    data = (tmp_path / "clip.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), (
        "the index comes first, so that a browser starts at once"
    )


def test_same_frames_same_bytes(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, gradient(9), 16)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"an earlier clip")

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("magic141.video.av.VideoFrame.from_ndarray", fail)
    with pytest.raises(KeyboardInterrupt):
        write_video(path, gradient(5), 16)
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
    assert path.read_bytes() == b"an earlier clip"


def test_a_video_is_written_part_by_part(tmp_path: Path) -> None:
    """It plays from the first part on, and in the end is indexed like one written at once."""
    path = tmp_path / "clip.mp4"
    frames = gradient(30)
    with VideoWriter(path, 16) as writer:
        assert not path.exists()
        for i, part in enumerate(np.split(frames, 3), 1):
            writer.write(part)
            assert writer.frames == 10 * i
            read, _ = read_video(path)
            assert 10 * i - 2 <= len(read) <= 10 * i, "the encoder and the muxer hold one frame each"
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
    read, fps = read_video(path)
    assert (len(read), fps) == (30, 16)
    assert np.mean((read.astype(float) - frames) ** 2) < 255**2 / 10**4
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.frames) == ("h264", "yuv420p", 30)
        assert float(stream.duration * stream.time_base) == 30 / 16
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_same_parts_same_bytes(tmp_path: Path) -> None:
    for name, parts in (("a.mp4", 2), ("b.mp4", 3)):
        with VideoWriter(tmp_path / name, 16) as writer:
            for part in np.split(gradient(12), parts):
                writer.write(part)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_an_encoder_that_is_missing_is_what_the_error_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise av.error.EncoderNotFoundError(1, "no libx264")

    monkeypatch.setattr(video, "_add_stream", missing)
    with pytest.raises(InputError, match="no libx264"), VideoWriter(tmp_path / "clip.mp4", 16) as writer:
        writer.write(gradient(5))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_video_keeps_what_was_made(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"an earlier clip")
    with pytest.raises(error), VideoWriter(tmp_path / "clip.mp4", 16):
        raise error
    assert (tmp_path / "clip.mp4").read_bytes() == b"an earlier clip", "nothing was made"

    def parts() -> Iterator[Frames]:
        yield gradient(7)
        raise error

    with pytest.raises(error):
        write_parts(tmp_path / "clip.mp4", parts())
    read, fps = read_video(tmp_path / "clip.mp4")
    assert (len(read), fps) == (7, 16)
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def write_parts(path: Path, parts: Iterable[Frames]) -> None:
    with VideoWriter(path, 16) as writer:
        for part in parts:
            writer.write(part)


WRITE_WITHOUT_END = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
import sys, numpy as np
from magic141.video import VideoWriter
with VideoWriter(sys.argv[1], 16) as writer:
    while True:
        writer.write(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8))
"""


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL] if os.name != "nt" else [])
def test_a_killed_process_leaves_a_video_that_plays(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "clip.mp4"
    command = [sys.executable, "-c", WRITE_WITHOUT_END, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not (path.exists() and path.stat().st_size > 100_000) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
    assert process.returncode == -number
    frames, fps = read_video(path)
    assert len(frames) > 4
    assert fps == pytest.approx(16, rel=0.1)


@posix
@pytest.mark.parametrize("limit", [20_011, 39_990, 80_000])
def test_a_full_disk_leaves_a_video_that_plays(tmp_path: Path, limit: int) -> None:
    """Stands in for a full disk: no file of this process may grow beyond the limit."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "clip.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        with pytest.raises(
            InputError, match=r"cannot go on writing .*clip.mp4. \(File too large\)"
        ) as failure:
            write_parts(path, [noise] * 40)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (said,) = re.findall(r"it plays up to about frame (\d+);", str(failure.value))
    assert int(said) - 3 <= len(read_video(path)[0]) <= int(said)
    assert path.stat().st_size <= limit


def test_parts_have_one_size(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mp4", 16) as writer:
        writer.write(gradient(5))
        with pytest.raises(InputError, match=r"\(32, 64, 3\) after frames of \(64, 64, 3\)"):
            writer.write(gradient(5, 32, 64))
        with pytest.raises(InputError, match=r"must be uint8 \(T, H, W, 3\)"):
            writer.write(gradient(5).astype(np.float32))


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        (gradient(5, 64, 63), 16, "63x64.*even sides"),
        (gradient(5).astype(np.float32), 16, r"must be uint8 \(T, H, W, 3\).*float32"),
        (gradient(5)[..., 0], 16, r"\(5, 64, 64\)"),
        (gradient(5)[:0], 16, r"\(0, 64, 64, 3\)"),
        (gradient(5), 0, "fps=0 must lie in 1..240"),
        (gradient(5), float("nan"), "fps=nan"),
    ],
)
def test_bad_frames_are_refused(tmp_path: Path, frames: Frames, fps: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_video(tmp_path / "clip.mp4", frames, fps)
    assert list(tmp_path.iterdir()) == []


def test_bad_outputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        check_writable(tmp_path / "nowhere" / "clip.mp4")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="does not exist"):
        check_writable(tmp_path / "file" / "clip.mp4")
    assert check_writable(tmp_path / "clip.mp4") == tmp_path / "clip.mp4"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_unwritable_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for a read-only folder, which does not stop root."""

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("magic141.video.tempfile.TemporaryFile", refuse)
    with pytest.raises(InputError, match=r"cannot be written \(Permission denied\)"):
        check_writable(tmp_path / "clip.mp4")


def test_a_folder_that_cannot_be_looked_into_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(InputError, match=r"cannot be written \(Permission denied\)"):
        check_writable(tmp_path / "clip.mp4")


def test_a_disk_that_fills_up_under_a_clip_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("magic141.video._encode", full)
    with pytest.raises(InputError, match=r"cannot write .*clip.mp4' \(No space left on device\): make room"):
        write_video(tmp_path / "clip.mp4", gradient(5), 16)
    assert not list(tmp_path.iterdir())


def test_the_longest_name_that_a_folder_takes_is_written(tmp_path: Path) -> None:
    target = tmp_path / f"{'x' * 251}.mp4"
    write_video(target, gradient(5), 16)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_unreadable_videos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read a video"):
        read_video(tmp_path / "missing.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(InputError, match="cannot read a video"):
        read_video(tmp_path / "text.mp4")
    write_video(tmp_path / "clip.mp4", gradient(33), 16)
    whole = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[:200])
    with pytest.raises(InputError, match="cut.mp4"):
        read_video(tmp_path / "cut.mp4")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_images_become_rgb(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (64, 32), (153, 153, 153)).convert(mode).save(tmp_path / "image.png")
    image = read_image(tmp_path / "image.png")
    assert (image.mode, image.size) == ("RGB", (64, 32))
    assert image.getpixel((5, 5)) == (153, 153, 153)


def test_photos_stand_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (64, 32)).save(tmp_path / "photo.jpg", exif=exif)
    assert read_image(tmp_path / "photo.jpg").size == (32, 64)


def test_unreadable_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read an image from .*missing.png"):
        read_image(tmp_path / "missing.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(InputError, match="Give a PNG, JPEG or WebP file"):
        read_image(tmp_path / "text.png")
    Image.effect_noise((64, 64), 50).save(tmp_path / "image.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "image.png").read_bytes()[:500])
    with pytest.raises(InputError, match="cut.png"):
        read_image(tmp_path / "cut.png")


def test_sixteen_bits_keep_their_greys(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((4, 4), 30000, np.uint16)).save(path)
    assert np.array(read_image(path)).max() == np.array(read_image(path)).min() == 117


def test_an_image_without_a_white_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "float.tiff"
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(path)
    with pytest.raises(InputError, match="have no white"):
        read_image(path)
