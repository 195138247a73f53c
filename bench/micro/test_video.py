"""Reading a clip of the lab's size from a file."""

from pathlib import Path

import numpy as np

from bench.micro.conftest import Timed
from magic141.presets import LAB
from magic141.video import read_video, write_video


def test_video_decode(priced: Timed, tmp_path: Path) -> None:
    video = LAB.video
    shape = (video.num_frames, video.height, video.width, 3)
    ramp = np.linspace(0, 255, video.width, dtype=np.uint8)[None, None, :, None]
    frames = np.ascontiguousarray(np.broadcast_to(ramp, shape))
    path = tmp_path / "clip.mp4"
    write_video(path, frames, video.fps)
    # A decoder's arithmetic is on integers: FLOPs are 0 by definition here, and tokens are frames.
    priced(lambda: read_video(path), 20, tokens=video.num_frames, bytes=frames.nbytes, flops=0)
