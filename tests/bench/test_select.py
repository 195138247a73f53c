"""Which checkpoint is the best: the formula on numbers that are known, and a choice that resumes."""

import json
import math
from pathlib import Path

import pytest

from bench import select
from bench.errors import InvalidOutputError, RunError
from bench.records import Score
from bench.trials import QUALITY, Trial
from magic141.errors import InputError


def scores(distance, accuracy, motion):
    how = {
        "fvd-world": {"better": "lower"},
        "accuracy-mean": {"better": "higher"},
        "motion-ratio": {"better": "target", "target": 1.0},
    }
    values = dict(zip(QUALITY, (distance, accuracy, motion), strict=True))
    return {
        name: Score(value=value, n=64, protocol="p", note="none", **how[name])
        for name, value in values.items()
    }


def answer(question, distance=1.0, accuracy=0.9, motion=1.0, spread=1.0):
    """Final positions on a line, `spread` apart."""
    ends = tuple(
        tuple((32.0 + spread * seed, 32.0) for seed in range(question.sample.seeds))
        for _ in range(question.sample.prompts)
    )
    return Trial(
        question=question.id, knobs=question.knobs, weights_sha256=None, sample=question.sample, seconds=1,
        scores=scores(distance, accuracy, motion) if question.metrics else {},
        ends=ends if question.ends else (),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def without_weights(monkeypatch):
    """A question's id is that of its knobs: no folder here holds weights."""
    from bench.records import digest
    from bench.trials import Question

    monkeypatch.setattr(Question, "id", property(lambda q: digest([q.knobs, q.sample.model_dump(), q.ends])))


def options():
    knobs = {"task": "image to video", "num_inference_steps": 4, "guidance_scale": 1.0, "shift": None}
    return select.Options(knobs, knobs | {"model": "teacher"}, prompts=64, spread_prompts=16, seeds=4)


def folder(path):
    path.mkdir(parents=True)
    (path / "model_index.json").write_text("{}")
    return path


def test_every_part_of_the_cost_is_in_nats():
    question = options().questions({"model": "x"})[0]
    reference = answer(question)
    even = select.terms(reference, 1.0, reference)
    assert even == {"quality": 0.0, "attributes": 0.0, "motion": 0.0, "diversity": 0.0}
    assert select.terms(answer(question, distance=3.0), 1.0, reference)["quality"] == pytest.approx(
        math.log(2)
    )
    assert select.terms(answer(question, accuracy=0.8), 1.0, reference)["attributes"] == pytest.approx(1.0)
    for motion in (0.5, 2.0):
        assert select.terms(answer(question, motion=motion), 1, reference)["motion"] == pytest.approx(
            math.log(2)
        )
    assert select.terms(reference, 0.5, reference)["diversity"] == pytest.approx(math.log(2))
    assert select.terms(reference, 2.0, reference)["diversity"] == 0.0
    assert select.terms(answer(question, motion=0.0), 0.0, reference)["motion"] == pytest.approx(
        math.log(1000)
    )


CANDIDATES = {
    "good": {"distance": 1.1, "motion": 0.95},
    "still": {"distance": 1.0, "motion": 0.1},
    "collapsed": {"distance": 1.0, "spread": 0.2},
    "blurred": {"distance": 6.0},
}


def asking(calls):
    def ask(question):
        calls.append(question)
        name = str(question.knobs["model"]).rpartition("/")[2]
        return answer(question, **CANDIDATES.get(name, {}))

    return ask


def test_a_still_a_collapsed_and_a_blurred_student_lose_to_a_good_one(tmp_path):
    paths = [folder(tmp_path / name) for name in CANDIDATES]
    calls = []
    choice = select.select(paths, options(), tmp_path / "out", asking(calls), lambda text: None)
    assert choice["chosen"].endswith("good")
    assert next(row["candidate"].rpartition("/")[2] for row in choice["candidates"]) == "good"
    assert json.loads((tmp_path / "out" / "selection.json").read_text())["formula"] == select.FORMULA
    assert all(question.sample.split == "validation" for question in calls)
    assert len(calls) == 2 * 5


def test_the_same_command_resumes_after_a_kill(tmp_path):
    paths, calls = [folder(tmp_path / name) for name in CANDIDATES], []
    select.select(paths[:2], options(), tmp_path / "out", asking(calls), lambda text: None)
    with (tmp_path / "out" / "selection.jsonl").open("a") as file:
        file.write('{"question": "to')
    again = []
    choice = select.select(paths, options(), tmp_path / "out", asking(again), lambda text: None)
    assert len(again) == 4
    assert len(choice["candidates"]) == 4


def test_a_run_stands_for_its_snapshots_and_its_student(tmp_path):
    run = tmp_path / "dmd2"
    expected = [folder(run / "snapshots" / name) for name in ("0000001", "0000002")] + [
        folder(run / "student")
    ]
    alone = folder(tmp_path / "alone")
    assert select.candidates([run, alone, alone]) == [*expected, alone]
    with pytest.raises(RunError, match="neither a pipeline folder nor a run"):
        select.candidates([tmp_path])
    with pytest.raises(RunError, match="no candidate"):
        select.candidates([])


def test_a_candidate_without_a_score_is_shown_last_with_its_reason(tmp_path):
    def ask(question):
        found = answer(question)
        if str(question.knobs["model"]).endswith("broken") and question.metrics:
            none = Score(value=None, n=64, protocol="p", better="lower", note="too few clips")
            return found.model_copy(update={"scores": found.scores | {"fvd-world": none}})
        return found

    paths = [folder(tmp_path / name) for name in ("broken", "good")]
    choice = select.select(paths, options(), tmp_path / "out", ask, lambda text: None)
    assert choice["candidates"][-1]["why"].endswith("too few clips")
    with pytest.raises(InputError, match="no candidate can be scored"):
        select.select(paths[:1], options(), tmp_path / "out", ask, lambda text: None)


def test_a_candidate_that_cannot_be_asked_does_not_hide_the_others(tmp_path):
    good, bad = folder(tmp_path / "good"), folder(tmp_path / "bad")

    def ask(question):
        if str(bad) in str(question.knobs["model"]):
            raise InvalidOutputError("2 of 32 clips are one flat colour")
        return answer(question)

    choice = select.select([bad, good], options(), tmp_path / "out", ask, lambda text: None)
    assert choice["chosen"] == good.as_posix()
    assert "flat colour" in choice["candidates"][1]["why"]


def test_a_candidate_is_asked_by_its_place_and_not_by_a_name(tmp_path, monkeypatch):
    folder(tmp_path / "lab")
    monkeypatch.chdir(tmp_path)
    asked = []

    def ask(question):
        asked.append(question.knobs["model"])
        return answer(question)

    select.select(select.candidates([Path("lab")]), options(), tmp_path / "out", ask, lambda text: None)
    assert str(tmp_path / "lab") in asked
    assert "lab" not in asked
