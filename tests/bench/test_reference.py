import numpy as np
import pytest

from bench.baselines.reference import LastFrame, Noise, Static, Truth
from bench.errors import UnsupportedError
from bench.measure import Stopwatch
from bench.prompts import PromptSpec
from bench.systems import Request, check_output
from magic141.errors import InputError

SCENES = PromptSpec(split="test", count=3).scenes()
REQUESTS = [Request(index, prompt, index, scene) for index, (prompt, scene) in enumerate(SCENES)]


@pytest.mark.parametrize(
    "system", [Truth(), Static(), LastFrame(), Noise()], ids=lambda system: type(system).__name__
)
def test_references_are_videos_with_first_frames(system: Truth) -> None:
    output = system.generate(REQUESTS, Stopwatch())
    check_output(output, 3)
    assert output.frames.shape == (3, 33, 64, 64, 3)
    again = system.generate(REQUESTS[1:2], Stopwatch())
    np.testing.assert_array_equal(again.frames[0], output.frames[1])  # a clip does not depend on its batch
    true_first = Truth().generate(REQUESTS, Stopwatch()).frames[:, 0]
    np.testing.assert_array_equal(output.first_frames, true_first)


def test_static_does_not_move_and_truth_does() -> None:
    static = Static().generate(REQUESTS, Stopwatch()).frames
    assert (static == static[:, :1]).all()
    truth = Truth().generate(REQUESTS, Stopwatch()).frames
    assert (truth != truth[:, :1]).any(axis=(1, 2, 3, 4)).all()


def test_the_last_known_frame_stands() -> None:
    truth = Truth().generate(REQUESTS, Stopwatch()).frames
    frames = LastFrame(known_frames=9).generate(REQUESTS, Stopwatch()).frames
    np.testing.assert_array_equal(frames[:, :9], truth[:, :9])
    assert (frames[:, 9:] == truth[:, 8:9]).all()
    with pytest.raises(InputError, match="known_frames=33 must lie in 1 to 32"):
        LastFrame(known_frames=33)


def test_noise_follows_its_seed() -> None:
    same = [
        Request(0, "a", 7, SCENES[0][1]),
        Request(1, "b", 7, SCENES[1][1]),
        Request(2, "c", 8, SCENES[2][1]),
    ]
    frames = Noise().generate(same, Stopwatch()).frames
    np.testing.assert_array_equal(frames[0], frames[1])
    assert (frames[0] != frames[2]).mean() > 0.9


def test_truth_needs_a_scene() -> None:
    with pytest.raises(UnsupportedError, match="prompts of the lab world"):
        Truth().generate([Request(0, "a red circle", 0)], Stopwatch())
