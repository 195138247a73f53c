"""The peak memory of scoring, in fresh processes: it must not tell how many clips there were, nor how long."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from magic141.data.render import render
from magic141.data.world import World
from magic141.video import write_video

ROOT = Path(__file__).parents[2]
# Resident memory, and not what Python allocates: decoder and optical flow keep theirs in C.
SCORE = """
import gc
import sys
from pathlib import Path

from bench.measure import PeakResident, anonymous_bytes
from evals import clips, results, scoring

gc.collect()
peak = PeakResident(anonymous_bytes())
scores = scoring.score_clips(clips.find([Path(sys.argv[1])]), scoring.Request())
results.write(scores, Path(sys.argv[2]), Path(sys.argv[3]))
assert not scores.failed
print(peak.read())
"""


def peak(folder, count, frames):
    """Peak bytes above those after the imports, for `count` copies of a 64x64 clip, found, scored and written."""
    folder.mkdir()
    write_video(folder / "0.mp4", render(World().scenes("test", 0, 1), frames).numpy()[0], 16)
    for i in range(1, count):
        shutil.copy(folder / "0.mp4", folder / f"{i}.mp4")
    outputs = [folder.with_suffix(suffix) for suffix in (".json", ".csv")]
    done = subprocess.run(
        [sys.executable, "-c", SCORE, folder, *outputs], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = done.stdout.split()[-1]
    if not found.isdigit():
        pytest.skip(f"peak resident memory is {found} here")
    return int(found)


@pytest.mark.slow
@pytest.mark.parametrize(("few", "many"), [((16, 33), (256, 33)), ((2, 33), (2, 961))])
def test_memory_grows_by_less_than_a_tenth(tmp_path, few, many):
    """The pixels of 240 clips are 13 times the memory of scoring; their rows in the table are a few hundredths."""
    assert peak(tmp_path / "many", *many) < 1.1 * peak(tmp_path / "few", *few)
