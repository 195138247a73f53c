import numpy as np
import pytest

from bench.errors import InvalidOutputError
from bench.jobs import is_out_of_memory, outcome_of
from bench.quality import worst
from bench.records import Score
from bench.systems import Output, check_output, to_uint8


def test_floats_become_bytes() -> None:
    assert to_uint8(np.array([-0.5, 0.0, 0.5, 1.0, 1.5])).tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_no_video(bad: float) -> None:
    with pytest.raises(InvalidOutputError, match="1 of 4 values are not finite"):
        to_uint8(np.array([0.1, bad, 0.2, 0.3]))


def test_one_value_of_many_is_counted_and_not_rounded_away() -> None:
    frames = np.zeros((1, 33, 64, 64, 3), np.float32)
    frames[0, 3, 2, 1, 0] = np.nan
    with pytest.raises(InvalidOutputError, match="^1 of 405,504 values are not finite$"):
        to_uint8(frames)


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (np.zeros((1, 5, 8, 8, 3)), "not uint8"),
        (np.zeros((5, 8, 8, 3), np.uint8), "not uint8"),
        (np.ones((1, 5, 8, 8, 4), np.uint8), "not uint8"),
        (np.ones((2, 5, 8, 8, 3), np.uint8), "for 1 requests"),
        (np.ones((1, 1, 8, 8, 3), np.uint8), "2 frames or more"),
        (np.full((1, 5, 8, 8, 3), 7, np.uint8), "one flat colour"),
    ],
)
def test_frames_are_checked(frames: np.ndarray, said: str) -> None:
    with pytest.raises(InvalidOutputError, match=said):
        check_output(Output(frames), 1)


def test_one_flat_clip_among_others_is_invalid() -> None:
    frames = np.zeros((2, 5, 8, 8, 3), np.uint8)
    frames[:, 0, 0, 0, 0] = 1
    check_output(Output(frames), 2)
    frames[1] = 7
    with pytest.raises(InvalidOutputError, match="1 of 2 clips are one flat colour, the first is clip 1"):
        check_output(Output(frames), 2)


def test_allocators_of_all_kinds_run_out_of_memory() -> None:
    import torch

    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as cpu:
        torch.empty(1 << 50)
    assert outcome_of(cpu.value) == "oom"
    with pytest.raises(MemoryError) as numpy:
        np.empty(1 << 50)
    assert outcome_of(numpy.value) == "oom"
    assert outcome_of(RuntimeError("shape mismatch")) == "crashed"


def test_the_worst_clip_is_worst_over_all_metrics() -> None:
    def score(better: str, target: float | None = None) -> Score:
        return Score(value=1, n=3, protocol="p", better=better, target=target)  # type: ignore[arg-type]

    scores = {
        "up": score("higher"),
        "down": score("lower"),
        "near": score("target", 1.0),
        "whole": score("lower"),
    }
    rows = [
        {"up": 0.9, "down": 0.1, "near": 1.1},
        {"up": 0.2, "down": 0.2, "near": 0.1},
        {"up": 0.3, "down": None, "near": 1.0},
    ]
    assert worst(scores, rows) == 1
    assert worst({"whole": score("lower")}, rows) == 0
