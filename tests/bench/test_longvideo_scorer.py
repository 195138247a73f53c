import numpy as np
import pytest

from bench.baselines.longvideo import LongTruth
from bench.errors import UnsupportedError
from bench.longvideo_scorer import LONG
from bench.measure import Stopwatch
from bench.prompts import PromptSpec
from bench.systems import Output, Request
from magic141.errors import InputError

SCENES = PromptSpec(split="test", count=2).scenes()
REQUESTS = [Request(index, prompt, index, scene) for index, (prompt, scene) in enumerate(SCENES)]
METRICS = ["last-colour", "drift-brightness", "drift-colour", "seam-change"]


def test_scores_and_curves_become_records() -> None:
    output = LongTruth(seconds=9).generate(REQUESTS, Stopwatch())
    protocols = LONG.protocols(METRICS, 2, 144)
    scores = LONG.score(output, REQUESTS, METRICS)
    assert {name: score.protocol for name, score in scores.aggregate.items()} == protocols
    kept, drift = scores.aggregate["last-colour"], scores.aggregate["drift-brightness"]
    assert (kept.n, kept.better, kept.unit) == (2, "higher", "fraction")
    assert (drift.better, drift.target, drift.unit) == ("target", 0.0, "grey levels per minute")
    assert drift.low is not None
    assert [set(row) for row in scores.per_sample] == [{*METRICS, "curves", "window_seconds"}] * 2
    curves = scores.per_sample[0]["curves"]
    assert len(curves["brightness"]) == 4
    assert all(value is None or np.isfinite(value) for values in curves.values() for value in values)


def test_too_few_windows_have_no_slope_but_a_reason() -> None:
    output = LongTruth(seconds=33 / 16).generate(REQUESTS[:1], Stopwatch())
    scores = LONG.score(output, REQUESTS[:1], METRICS).aggregate
    assert scores["drift-colour"].value is None
    assert "too few windows" in scores["drift-colour"].note
    assert scores["last-colour"].value is not None


def test_what_cannot_be_scored_is_refused() -> None:
    output = Output(np.zeros((1, 33, 64, 64, 3), np.uint8))
    with pytest.raises(UnsupportedError, match="prompts of the lab world"):
        LONG.score(output, [Request(0, "a red circle", 0)], METRICS)
    with pytest.raises(InputError, match="unknown metric 'fvd-world' of long video"):
        LONG.protocols(["fvd-world"], 1, 33)
