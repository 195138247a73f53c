from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from evals.flicker import temporal_flickering
from evals.motion import flow_magnitude
from magic141.errors import InputError

CLIPS = Path(__file__).parents[2].parent / "shared" / "clips"
ENTRIES = json.loads((CLIPS / "MANIFEST.json").read_text()) if (CLIPS / "MANIFEST.json").exists() else []
real_clips = pytest.mark.skipif(not ENTRIES, reason="no folder of real clips beside the checkout")


def decoded(entry, limit=None):
    with av.open(str(CLIPS / entry["file"])) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == limit:
                return
            yield frame.to_ndarray(format="rgb24")


@real_clips
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["file"])
def test_equals_vbench_on_real_clips(entry):
    expected = entry["reference_values"]["vbench_temporal_flickering"]
    assert temporal_flickering(decoded(entry)) == pytest.approx(expected, abs=1e-5)


@real_clips
@pytest.mark.slow
def test_flow_equals_the_manifest_on_a_real_clip():
    entry = next(entry for entry in ENTRIES if entry["file"] == "cogvideox/3.mp4")
    expected = entry["reference_values"]["dis_medium_mean_flow_px_per_frame"]
    assert flow_magnitude(decoded(entry)) == pytest.approx(expected, rel=0.02)


def test_by_hand():
    frames = np.zeros((3, 2, 2, 3), np.uint8)
    frames[1], frames[2] = 51, 0
    assert temporal_flickering(frames) == pytest.approx(0.8)
    assert temporal_flickering(iter(frames)) == pytest.approx(0.8)


def test_differences_do_not_wrap_around():
    frames = np.stack([np.full((2, 2, 3), 250, np.uint8), np.full((2, 2, 3), 5, np.uint8)])
    assert temporal_flickering(frames) == pytest.approx(10 / 255)


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (np.zeros((1, 4, 4, 3), np.uint8), "at least 2 frames"),
        (np.zeros((3, 4, 4, 3), np.float32), "8-bit"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)], "change shape"),
    ],
)
def test_bad_input_is_named(frames, says):
    with pytest.raises(InputError, match=says):
        temporal_flickering(frames)
