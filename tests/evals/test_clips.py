from __future__ import annotations

import pickle
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from evals.clips import ClipError, Source, find, fps, frames
from magic141.errors import InputError

CODECS = {
    "mp4": ("libx264", "yuv420p"),
    "mov": ("libx264", "yuv420p"),
    "mkv": ("libx264", "yuv420p"),
    "avi": ("mpeg4", "yuv420p"),
    "webm": ("libvpx-vp9", "yuv420p"),
    "gif": ("gif", "rgb8"),
}


def pictures(count=24):
    rng = np.random.default_rng(1)
    blocks = np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    return [np.roll(blocks, 3 * t, axis=1) for t in range(count)]


def write(path, count=24, rate=10, front=False):
    codec, layout = CODECS[path.suffix[1:].lower()]
    options = {"movflags": "+faststart"} if front else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = 48, 64, layout
        for picture in pictures(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def save(folder, names, size=(20, 18)):
    folder.mkdir(parents=True, exist_ok=True)
    for value, name in enumerate(names):
        Image.new("RGB", size, (value * 10, 0, 0)).save(folder / name)


def only(path):
    (source,) = find([path])
    return source


def reason(path):
    with pytest.raises(ClipError) as caught:
        list(frames(only(path)))
    return caught.value.reason


@pytest.mark.parametrize("kind", CODECS)
def test_every_container_gives_its_frames(tmp_path, kind):
    source = only(write(tmp_path / f"clip.{kind}"))
    got = list(frames(source))
    assert len(got) == 24
    assert all(frame.dtype == np.uint8 and frame.shape == (48, 64, 3) for frame in got)
    assert np.abs(got[5].astype(int) - pictures()[5]).mean() < 40
    assert fps(source) == pytest.approx(10, rel=0.01)


def test_frames_stream(tmp_path):
    stream = frames(only(write(tmp_path / "clip.mp4")))
    assert next(stream).shape == (48, 64, 3)
    stream.close()


def test_finds_clips_by_natural_names(tmp_path):
    for name in ("clip10.MP4", "clip2.mp4", "b/clip1.webm", ".hidden.mp4", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    save(tmp_path / "b" / "frames", ["1.png"])
    save(tmp_path / "b", ["preview.jpg"])
    found = find([tmp_path])
    assert [source.name for source in found] == ["b/clip1.webm", "b/frames", "clip2.mp4", "clip10.MP4"]
    assert [source.kind for source in found] == ["video", "images", "video", "video"]
    assert find([tmp_path, tmp_path / "clip2.mp4"]) == found


def test_equal_names_take_their_folder(tmp_path):
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.mp4").touch()
    assert [source.name for source in find([tmp_path / "ours", tmp_path / "theirs"])] == [
        "ours/1.mp4",
        "theirs/1.mp4",
    ]
    with pytest.raises(InputError, match="2 clips are called"):
        find([tmp_path / "ours" / "1.mp4", tmp_path / "ours", *same_again(tmp_path)])


def same_again(tmp_path):
    (tmp_path / "deep" / "ours").mkdir(parents=True)
    (tmp_path / "deep" / "ours" / "1.mp4").touch()
    return [tmp_path / "deep" / "ours"]


def test_a_folder_of_images_is_a_clip_in_natural_order(tmp_path):
    save(tmp_path / "walk", ["frame2.png", "frame10.png", "Frame1.png"])
    (tmp_path / "walk" / "readme.txt").write_text("not a frame")
    source = only(tmp_path / "walk")
    assert source == Source("walk", tmp_path / "walk", "images")
    assert [int(frame[0, 0, 0]) for frame in frames(source)] == [20, 0, 10]
    assert next(frames(source)).shape == (18, 20, 3)
    assert fps(source) is None


def test_nothing_to_find(tmp_path):
    (tmp_path / "note.txt").touch()
    with pytest.raises(InputError, match="does not exist"):
        find([tmp_path / "missing"])
    with pytest.raises(InputError, match="no clip found"):
        find([tmp_path])
    with pytest.raises(InputError, match="no video file"):
        find([tmp_path / "note.txt"])


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("kept", [0.4, 0.85])
@pytest.mark.parametrize("front", [False, True])
def test_a_cut_off_file_is_noticed(tmp_path, kind, kept, front):
    path = write(tmp_path / f"clip.{kind}", count=48, front=front and kind in ("mp4", "mov"))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    assert "cut off" in reason(path)


def test_a_cut_between_two_frames_is_noticed(tmp_path):
    """No decoder complains of a file that ends with a whole frame: only its header knows of more."""
    path = write(tmp_path / "clip.mp4", front=True)
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: ends[-4]])
    assert "cut off" in reason(path)


def test_bad_files_say_why(tmp_path):
    (tmp_path / "empty.mp4").touch()
    assert reason(tmp_path / "empty.mp4") == "empty file (0 bytes)"
    for kind in CODECS:
        (tmp_path / f"text.{kind}").write_text("this is no video\n" * 99)
        assert reason(tmp_path / f"text.{kind}").startswith("no video")
    with pytest.raises(ClipError, match=r"^empty.mp4: empty"):
        fps(only(tmp_path / "empty.mp4"))
    with pytest.raises(ClipError, match=r"^text.mp4: no video"):
        fps(only(tmp_path / "text.mp4"))


def test_sound_alone_is_no_clip(tmp_path):
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    assert reason(tmp_path / "song.mp4").startswith("no video stream")


def test_bad_images_say_why(tmp_path):
    save(tmp_path / "sizes", ["1.png"])
    save(tmp_path / "sizes", ["2.png"], size=(10, 10))
    assert reason(tmp_path / "sizes") == "frames of different sizes, 20x18 and 10x10; resize them"
    save(tmp_path / "broken", ["1.png"])
    (tmp_path / "broken" / "2.png").write_bytes((tmp_path / "broken" / "1.png").read_bytes()[:40])
    assert reason(tmp_path / "broken").startswith("2.png: no image")
    (tmp_path / "broken" / "2.png").write_bytes(b"")
    assert reason(tmp_path / "broken") == "2.png: empty file (0 bytes)"


UPRIGHT = (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
TURNED = {
    1: (0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000),
    2: (-0x10000, 0, 0, 0, -0x10000, 0, 0, 0, 0x40000000),
    3: (0, -0x10000, 0, 0x10000, 0, 0, 0, 0, 0x40000000),
}
"""By quarter turns clockwise, the matrix in a track's header (ISO 14496-12, 8.3.2)."""


@pytest.mark.parametrize("turns", TURNED)
def test_a_video_is_turned_as_its_file_says(tmp_path, turns):
    path = write(tmp_path / "clip.mp4", count=3)
    stored = next(frames(only(path)))
    data, found, matrix = path.read_bytes(), struct.pack(">9i", *UPRIGHT), struct.pack(">9i", *TURNED[turns])
    at = data.index(found, data.index(b"tkhd"))
    path.write_bytes(data[:at] + matrix + data[at + len(found) :])
    np.testing.assert_array_equal(next(frames(only(path))), np.rot90(stored, -turns))


def test_greys_of_16_bits_keep_their_brightness(tmp_path):
    (tmp_path / "grey").mkdir()
    values = np.array([[0, 257 * 100, 257 * 200, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "grey" / "1.png")
    (frame,) = frames(only(tmp_path / "grey"))
    np.testing.assert_array_equal(frame, np.repeat([[[0], [100], [200], [255]]], 3, axis=2))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_white_are_no_picture(tmp_path, mode):
    (tmp_path / "clip").mkdir()
    Image.new(mode, (4, 4)).save(tmp_path / "clip" / "1.png", format="tiff")
    assert reason(tmp_path / "clip").startswith(f"1.png: pixels of mode '{mode}' have no white")


def test_a_vanished_file_is_a_clip_error():
    with pytest.raises(ClipError, match="gone.mp4"):
        list(frames(Source("gone.mp4", Path("gone.mp4"), "video")))


def test_the_error_survives_a_worker_process():
    error = pickle.loads(pickle.dumps(ClipError("a.mp4", "no video stream")))
    assert (error.name, error.reason, str(error)) == ("a.mp4", "no video stream", "a.mp4: no video stream")
