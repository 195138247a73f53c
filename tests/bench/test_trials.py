"""Trials: which answer belongs to which prompt and seed. A scripted system says both in its pixels; no torch."""

import numpy as np
import pytest

from bench import systems, trials
from bench.errors import InvalidOutputError
from bench.prompts import SEED_STRIDE
from bench.scorers import Scores
from bench.systems import Output
from bench.trials import Question, Sample

PROMPTS, SEEDS = 40, 3


class Scripted:
    """A clip whose first pixel holds the prompt's index, and whose second the seed's."""

    flat, pictured = False, True

    def load(self):
        pass

    def weights(self):
        return "w"

    def generate(self, requests, stage):
        with stage("denoise"):
            frames = np.zeros((len(requests), 2, 4, 4, 3), np.uint8)
        if not self.flat:
            frames[:, :, 3, 3] = 255
            for frame, request in zip(frames, requests, strict=True):
                frame[:, 0, 0], frame[:, 0, 1] = request.index, request.seed // SEED_STRIDE
        return Output(frames, frames[:, 0] if self.pictured else None)


class Told:
    """Scores that say which clips they were given."""

    def __init__(self):
        self.given, self.firsts = [], None

    def score(self, output, requests, metrics):
        self.given = [(int(clip[0, 0, 0, 0]), int(clip[0, 0, 1, 0])) for clip in output.frames]
        self.firsts = output.first_frames
        return Scores({}, [{"accuracy-mean": float(request.index)} for request in requests])


def test_a_dial_that_is_off_is_not_written():
    """Answers to what was asked before there was one keep their names."""
    plain, terse = Sample(split="test", prompts=2), Sample(split="test", prompts=2, terse=True)
    assert "terse" not in plain.model_dump()
    assert "terse" not in plain.model_dump_json()
    assert Sample.model_validate_json(terse.model_dump_json()) == terse
    assert [len(scene.caption().split()) for scene in terse.scenes()] == [4, 4]


@pytest.fixture
def told(monkeypatch):
    found = Told()
    monkeypatch.setattr(systems, "make", lambda adapter, knobs: Scripted())
    monkeypatch.setattr(systems, "knobs_of", lambda system: {"model": "scripted"})
    monkeypatch.setattr(trials, "LAB", found)
    monkeypatch.setattr(
        "evals.diversity.final_position", lambda clip, scene: clip[0, 0, :2, 0].astype(np.float64)
    )
    return found


def test_ends_lie_by_prompt_and_then_by_seed(told):
    sample = Sample(split="validation", prompts=PROMPTS, seeds=SEEDS)
    trial = trials.ask(Question({}, sample, metrics=(), ends=True))
    ends = trials.positions(trial)
    assert ends.shape == (PROMPTS, SEEDS, 2)
    prompt, seed = np.meshgrid(np.arange(PROMPTS), np.arange(SEEDS), indexing="ij")
    np.testing.assert_array_equal(ends, np.stack([prompt, seed], axis=-1))
    assert told.given == []
    assert trial.accuracy == ()


def test_scores_are_of_all_clips_in_the_order_of_their_requests(told):
    trial = trials.ask(Question({}, Sample(split="validation", prompts=PROMPTS)))
    assert told.given == [(index, 0) for index in range(PROMPTS)]
    assert trial.accuracy == tuple(map(float, range(PROMPTS)))
    assert trial.ends == ()


@pytest.mark.parametrize("pictured", [True, False])
def test_scores_are_given_the_first_frames_that_a_system_has(told, monkeypatch, pictured):
    monkeypatch.setattr(Scripted, "pictured", pictured)
    trials.ask(Question({}, Sample(split="validation", prompts=PROMPTS)))
    if pictured:
        np.testing.assert_array_equal(told.firsts[:, 0, 0, 0], np.arange(PROMPTS))
    else:
        assert told.firsts is None


def test_a_clip_of_one_colour_is_no_answer(told, monkeypatch):
    monkeypatch.setattr(Scripted, "flat", True)
    with pytest.raises(InvalidOutputError, match="one flat colour"):
        trials.ask(Question({}, Sample(split="validation", prompts=2)))


def test_an_answer_is_found_again_by_what_was_asked_and_of_which_weights(told, monkeypatch):
    sample = Sample(split="validation", prompts=2)
    first = Question({}, sample).id
    assert Question({}, sample).id == first
    assert Question({}, Sample(split="test", prompts=2)).id != first
    assert Question({}, sample, ends=True).id != first
    monkeypatch.setattr(Scripted, "weights", lambda self: "others")
    assert Question({}, sample).id != first
