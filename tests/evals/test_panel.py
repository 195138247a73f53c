"""Known cheats carry their flag, on published clips and in the lab; what they were made of carries none."""

from __future__ import annotations

import json
from functools import cache
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from evals.appearance import MEASURES, SIDE, measure, reduced
from evals.clips import find, frames
from evals.flicker import temporal_flickering
from evals.motion import flow_magnitude
from evals.panel import FLAGS, RULES, flags
from magic141.data.render import render
from magic141.data.world import World
from magic141.errors import InputError

CLIPS = Path(__file__).parents[2].parent / "shared" / "clips"
FILES = (
    [entry["file"] for entry in json.loads((CLIPS / "MANIFEST.json").read_text())]
    if (CLIPS / "MANIFEST.json").exists()
    else []
)
COLLAPSED = "kandinsky5_dmd/ref.mp4"
GOOD = [file for file in FILES if file != COLLAPSED]
real_clips = pytest.mark.skipif(not FILES, reason="no folder of real clips beside the checkout")


@cache
def start(file, count=9):
    """The first frames of a real clip at the size of the working picture, which flags are decided on anyway."""
    (source,) = find([CLIPS / file])
    return [reduced(frame, SIDE) for frame in islice(frames(source), count)]


def raised(clip):
    return {flag.name for flag in flags(measure(clip))}


def blurred(clip, sigma):
    return [cv2.GaussianBlur(frame, (0, 0), sigma) for frame in clip]


@pytest.mark.parametrize("file", GOOD)
def test_cheats_on_real_clips_are_flagged(file):
    honest = start(file)[:3]
    assert raised(honest) == set()
    cheats = {
        "static": [honest[0]] * 3,
        "blurred": blurred(honest, SIDE / 200),
        "dark": [frame // 2 for frame in honest],
    }
    for flag, cheat in cheats.items():
        assert temporal_flickering(cheat) > temporal_flickering(honest)
        assert flag in raised(cheat)
    assert raised(cheats["static"]) == {"static"}
    assert raised(cheats["blurred"]) == {"blurred"}


@real_clips
def test_the_collapsed_control_is_flagged_although_it_hardly_flickers():
    assert "collapsed" in raised(start(COLLAPSED)[:4])
    assert temporal_flickering(start(COLLAPSED)) > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_whole_real_clips(file):
    (source,) = find([CLIPS / file])
    expected = {"collapsed"} if file == COLLAPSED else set()
    assert raised(reduced(frame, SIDE) for frame in frames(source)) == expected


@pytest.mark.parametrize("file", GOOD)
def test_every_second_frame_flickers_more_and_moves_faster(file):
    """A stride is no cheat with a flag of its own: it pays with flickering for what it gains in motion."""
    clip = start(file)
    assert temporal_flickering(clip[::2]) < temporal_flickering(clip)
    assert flow_magnitude(clip[::2]) > flow_magnitude(clip)


@real_clips
def test_a_splice_is_a_cut():
    width, height = start(GOOD[0])[0].shape[1::-1]
    clip = start(GOOD[0])[:2]
    for file in GOOD[1:]:
        other = [cv2.resize(frame, (width, height)) for frame in start(file)[:2]]
        assert raised([*clip, *other]) == {"cut"}, file


@pytest.fixture(scope="module")
def lab():
    scenes = World().scenes("validation", 900, 24)
    return scenes, render(scenes).numpy()


def test_truth_of_the_lab_carries_no_flag_but_scenes_at_rest(lab):
    resting = 0
    for scene, clip in zip(*lab, strict=True):
        rests = (clip == clip[0]).all()
        assert raised(clip) == ({"static"} if rests else set()), scene
        resting += rests
    assert resting


def test_cheats_in_the_lab_are_flagged(lab):
    for clip in lab[1][:12]:
        assert "static" in raised([clip[0]] * 3)
        assert "blurred" in raised(blurred(clip[:3], 2.0))
        assert "dark" in raised(clip[:3] // 2)
        assert "cut" in raised([*clip[:3], *(255 - clip[3:6])])


def test_a_still_that_was_coded_or_moves_once_is_static(rng, tmp_path):
    still = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((8, 8, 1)))
    noise = rng.integers(-4, 5, (24, *still.shape))
    noisy = np.clip(still + noise, 0, 255).astype(np.uint8)
    assert raised(noisy) == {"static"}
    noisy[12:] = np.roll(noisy[12:], 1, axis=2)
    assert raised(noisy) == {"static"}
    for rate in ("18", "28"):
        with av.open(str(tmp_path / "still.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=8, options={"crf": rate, "g": "6"})
            stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
            for _ in range(24):
                frame = av.VideoFrame.from_ndarray(still.astype(np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        assert raised(frames(find([tmp_path / "still.mp4"])[0])) == {"static"}


def test_noise_and_emptiness_are_collapsed(rng):
    assert raised(rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)) == {"collapsed"}
    assert "collapsed" in raised(np.full((3, 64, 64, 3), 200, np.uint8))


def test_a_flag_shows_its_evidence():
    (flag,) = [
        flag for flag in flags(measure([np.full((32, 32, 3), 90, np.uint8)] * 3)) if flag.name == "dark"
    ]
    assert (flag.name, flag.value, flag.rule.threshold) == ("dark", 90, 128)
    assert str(flag) == "dark: highlight 90 < 128"


def test_rules_are_about_known_measures():
    assert FLAGS == ("static", "blurred", "dark", "collapsed", "cut")
    assert {rule.measure for rule in RULES} <= MEASURES.keys()
    with pytest.raises(InputError, match="contrast"):
        flags({rule.measure: 0.0 for rule in RULES if rule.measure != "contrast"})
