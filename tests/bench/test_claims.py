"""Pre-registered claims: verdicts on numbers that are known, and a driver that resumes. No torch, no training."""

import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bench.claims import document, published, registry, runs
from bench.claims.driver import Driver
from bench.claims.runs import FULL, QUICK, Evaluate, Train
from bench.claims.steps import OTHERS
from bench.claims.verdicts import (
    Lines,
    accuracy_kept,
    advantage,
    diversity_kept,
    effect_of_the_dial,
    gap_closed,
    motion_kept,
    steps_beaten,
)
from bench.errors import InvalidOutputError, RunError, SuiteError
from bench.records import CLAIMS, ClaimRow, ClaimsTable, Score
from bench.trials import Sample, Trial
from magic141.errors import WeightsMissing

ROOT = Path(__file__).parents[2]


def score(value, half=0.1, **more):
    return Score(
        value=value, low=value - half, high=value + half, n=64, protocol="p", **({"better": "lower"} | more)
    )


def trial(distance, half=0.1, accuracy=(0.9,) * 50, motion=1.0, sample=None, **more):
    scores = {
        "fvd-world": score(distance, half),
        "accuracy-mean": score(float(np.mean(accuracy)), better="higher"),
        "motion-ratio": score(motion, better="target", target=1.0),
    }
    sample = sample or Sample(split="validation", prompts=64)
    return Trial(
        question="q", knobs={}, weights_sha256=None, sample=sample, scores=scores, seconds=1,
        accuracy=accuracy, **more,
    )  # fmt: skip


def lines(name, curves, anchors=("few", "many")):
    names = [[f"{name}{seed}@{k}" for k in range(len(one))] for seed, one in enumerate(curves)]
    answers = {
        n: trial(y) for row, one in zip(names, curves, strict=True) for n, y in zip(row, one, strict=True)
    }
    return Lines(name, [], names, anchors, 100), answers


ANCHORS = {"few": trial(9.0), "many": trial(1.0)}


def test_progress_is_one_at_the_start_and_none_at_the_teacher():
    worse, a = lines("worse", [[9.0, 5.0], [9.0, 5.0], [9.0, 5.0]])
    better, b = lines("better", [[5.0, 1.0], [5.0, 1.0], [5.0, 1.2]])
    found = advantage(worse, better, a | b | ANCHORS)
    assert next([point.y for point in curve.points] for curve in found.curves) == [1.0, 0.5]
    assert found.value == pytest.approx(0.5, abs=0.01)
    assert found.verdict == "reproduced"
    assert found.low < found.value < found.high
    assert advantage(better, worse, a | b | ANCHORS).verdict == "not reproduced"


def test_an_advantage_is_known_no_better_than_the_gap_that_it_is_measured_in():
    worse, a = lines("worse", [[9.0, 5.0], [9.0, 5.0], [9.0, 5.1]])
    better, b = lines("better", [[5.0, 1.0], [5.0, 1.0], [5.0, 1.2]])
    vague = {"few": trial(9.0, half=1.6), "many": trial(1.0, half=1.6)}
    known, unknown = (advantage(worse, better, a | b | anchors) for anchors in (ANCHORS, vague))
    assert known.value == unknown.value
    # By drawing both anchors: heights are .76 and .26, whose errors are of the few-step anchor and of the other.
    rng = np.random.default_rng(0)
    few, many = rng.normal(9.0, 1.6 / 1.96, 100_000), rng.normal(1.0, 1.6 / 1.96, 100_000)
    drawn = [(mean - many) / (few - many) for mean in (7.0167, 3.0333)]
    error = math.hypot(*(np.subtract(*np.quantile(one, [0.84, 0.16])) / 2 for one in drawn))
    assert (unknown.high - unknown.low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_seeds_that_disagree_reproduce_nothing():
    worse, a = lines("worse", [[9.0], [2.0], [9.0]])
    better, b = lines("better", [[2.0], [9.0], [2.0]])
    found = advantage(worse, better, a | b | ANCHORS)
    assert found.value > 0
    assert found.verdict == "not reproduced"


def test_one_seed_has_no_interval_and_so_reproduces_nothing():
    worse, a = lines("worse", [[9.0]])
    better, b = lines("better", [[1.0]])
    found = advantage(worse, better, a | b | ANCHORS)
    assert (found.value, found.low, found.verdict) == (1.0, None, "not reproduced")


def test_without_headroom_nothing_is_testable_and_the_reason_is_given():
    worse, a = lines("worse", [[3.0]])
    better, b = lines("better", [[1.0]])
    close = {"few": trial(1.2, half=1.0), "many": trial(1.0, half=1.0)}
    found = advantage(worse, better, a | b | close)
    assert found.verdict == "not testable here"
    assert "no headroom" in found.note
    assert found.labels[1] == "ln(1 + FD)"  # a figure without the gap, which is no measure here
    assert [curve.points[0].y for curve in found.curves] == pytest.approx([math.log(4), math.log(2)])
    assert gap_closed("few", "many", "few", close).verdict == "not testable here"


@pytest.mark.parametrize("gap", [(9.0, 1.0), (3.0, 1.0)])
def test_points_of_a_figure_are_known_no_better_than_the_gap_either(gap):
    """Seeds agree to the last digit: what is left of an interval is what the anchors bring."""
    few, many = gap
    worse, a = lines("worse", [[few, many], [few, many]])
    better, b = lines("better", [[few, many], [few, many]])
    found = advantage(worse, better, a | b | {"few": trial(few, half=0.5), "many": trial(many, half=0.5)})
    for curve in found.curves:
        for point in curve.points:
            assert (point.high - point.low) / 2 == pytest.approx(0.5 / (few - many))


def test_curves_lie_over_flops_where_those_are_what_is_equal():
    worse, a = lines("worse", [[9.0, 5.0], [9.0, 5.0]])
    better, b = lines("better", [[5.0, 1.0], [5.0, 1.0]])
    worse = dataclasses.replace(worse, gflop=10.0)
    equal = advantage(worse, dataclasses.replace(better, gflop=20.0), a | b | ANCHORS)
    assert equal.labels[0] == "training samples (of so many GFLOP: worse 10, better 20)"
    assert [point.x for point in equal.curves[1].points] == [50, 100]
    half = dataclasses.replace(better, gflop=20.0, samples=50)
    found = advantage(worse, half, a | b | ANCHORS)
    assert found.labels[0] == "training TFLOP"
    assert [[point.x for point in curve.points] for curve in found.curves] == [[0.5, 1.0], [0.5, 1.0]]


def test_convergence_needs_no_anchors():
    worse, a = lines("worse", [[math.e**2 - 1], [math.e**2 - 1]], None)
    better, b = lines("better", [[math.e - 1], [math.e - 1.0001]], None)
    assert advantage(worse, better, a | b).value == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("student", "share", "verdict"),
    [(1.0, 1.0, "reproduced"), (2.6, 0.8, "reproduced"), (3.0, 0.75, "not reproduced")],
)
def test_the_closed_share_of_the_gap(student, share, verdict):
    found = gap_closed("few", "many", "student", {**ANCHORS, "student": trial(student)})
    assert found.value == pytest.approx(share)
    assert found.verdict == verdict
    assert found.low < found.value < found.high


def test_thresholds_of_the_student():
    answers = {
        "many": trial(2.0, accuracy=(0.9,) * 50),
        "same": trial(1.0, accuracy=(0.9,) * 50),
        "worse": trial(2.0, accuracy=(0.8,) * 50, motion=0.85),
    }
    assert accuracy_kept("many", "same", answers).verdict == "reproduced"
    assert accuracy_kept("many", "worse", answers).verdict == "not reproduced"
    assert motion_kept("same", answers).verdict == "reproduced"
    assert motion_kept("worse", answers).verdict == "not reproduced"
    assert steps_beaten("many", "same", answers).verdict == "reproduced"
    assert steps_beaten("many", "worse", answers).verdict == "not reproduced"


def dial_pairs(gaps, events_anchors=None):
    """At every setting of the dial, lines whose remaining gaps differ by `gaps` of a whole one."""
    pairs, answers = [], {}
    for dial, gap in zip(runs.DIALS, gaps, strict=True):
        names = tuple(f"{end} {dial}" for end in ("few", "many"))
        answers |= dict(zip(names, (trial(9.0), trial(1.0)), strict=True))
        if dial == (0.0, False) and events_anchors:
            answers |= dict(zip(names, events_anchors, strict=True))
        pair = []
        for side, top in (("worse", 1.0 + 8 * gap), ("better", 1.0)):
            one, found = lines(f"{side} {dial} ", [[top], [top + 0.01], [top - 0.01]], names)
            pair.append(one)
            answers |= found
        pairs.append(tuple(pair))
    return pairs, answers


def test_the_dial_compares_nothing_stated_with_everything():
    pairs, answers = dial_pairs([0.5, 0.3, 0.2, 0.9])
    found = effect_of_the_dial(pairs, runs.DIALS, answers)
    assert found.value == pytest.approx(0.3)
    assert found.verdict == "reproduced"
    assert [len(curve.points) for curve in found.curves] == [3, 1]
    for point in (point for curve in found.curves for point in curve.points):
        assert point.high - point.low > 0.02  # seeds differ by a 400th, both anchors by 0.1 either side
    flat, answers = dial_pairs([0.2, 0.3, 0.5, 0.9])
    assert effect_of_the_dial(flat, runs.DIALS, answers).verdict == "not reproduced"


def test_a_setting_that_decides_nothing_needs_no_headroom():
    none = (trial(1.2, half=1.0), trial(1.0, half=1.0))
    pairs, answers = dial_pairs([0.5, 0.3, 0.2, 0.9], events_anchors=none)
    found = effect_of_the_dial(pairs, runs.DIALS, answers)
    assert found.verdict == "reproduced"
    assert found.note.startswith("at 0% stated and without events, which decides nothing, worse")
    assert "no headroom" in found.note
    first = pairs[0][0].anchors
    starved = answers | dict(zip(first, none, strict=True))
    assert effect_of_the_dial(pairs, runs.DIALS, starved).verdict == "not testable here"


def spread_trial(spread, prompts=40, seeds=8):
    rng = np.random.default_rng(0)
    ends = 32 + spread * rng.standard_normal((prompts, seeds, 2))
    sample = Sample(split="test", prompts=prompts, seeds=seeds)
    return trial(1.0, sample=sample, ends=tuple(tuple(map(tuple, row)) for row in ends.tolist()))


def test_diversity_is_a_ratio_of_variances():
    wide, narrow = spread_trial(4.0), spread_trial(2.0)
    kept = diversity_kept("s", "t", {"s": wide, "t": wide})
    assert (kept.value, kept.verdict) == (pytest.approx(1.0), "reproduced")
    lost = diversity_kept("s", "t", {"s": narrow, "t": wide})
    assert (lost.value, lost.verdict) == (pytest.approx(0.25), "not reproduced")


@pytest.mark.parametrize("scale", [FULL, QUICK], ids=["full", "quick"])
def test_with_nothing_run_every_claim_says_so(scale):
    found = document.table(registry.chosen(scale), scale, {})
    assert {row.verdict for row in found.rows} == {"not run yet"}


def test_the_document_is_made_from_the_registry():
    """Run `python -m bench claims --dry-run --doc docs/claims.md` after a change; protocols may until the first run."""
    experiments = registry.chosen(FULL)
    text = (ROOT / "docs" / "claims.md").read_text("utf-8")
    for one in experiments:
        assert f"### {one.id}. {one.claim}\n" in text
        assert f"- *Protocol*: {one.protocol}." in text
        assert f"- *Sample*: {one.sample(FULL)}" in text
        assert f"- *Reproduced if* {one.threshold}." in text


def test_quick_fits_twenty_minutes():
    experiments = registry.chosen(QUICK)
    assert [one.id for one in experiments] == ["b2"]
    assert sum(item.minutes for item in registry.plan(experiments, QUICK)) < 20


def test_full_has_the_seeds_that_were_promised():
    assert registry.EXPERIMENTS["a1"].seeds(FULL) >= 3
    assert registry.EXPERIMENTS["b1"].seeds(FULL) >= 2


def test_seeds_samples_and_tasks_reach_the_command():
    trained = [item for item in registry.EXPERIMENTS["a2"].items(FULL) if isinstance(item, Train)]
    assert len(trained) == 6
    both = next(item for item in trained if item.words.count("--task") == 2)
    hard = next(item for item in trained if item.words.count("--task") == 1)
    samples = [int(item.words[item.words.index("--samples") + 1]) for item in (both, hard)]
    assert samples[0] == math.floor(samples[1] * runs.ALTERNATING_SHARE)
    assert {item.words[item.words.index("--seed") + 1] for item in trained} == {"0", "1", "2"}
    asked = {
        item.knobs["task"] for item in registry.EXPERIMENTS["a2"].items(FULL) if isinstance(item, Evaluate)
    }
    assert asked == {"text to video", "text to video at once"}


def test_every_training_command_is_understood():
    import typer.main

    from magic141.train.__main__ import app

    group = typer.main.get_command(app)
    for item in registry.plan(registry.chosen(FULL), FULL):
        if isinstance(item, Train):
            command = group.commands[item.words[0]]
            command.make_context(item.words[0], list(item.words[1:]))


def test_the_dial_is_asked_in_the_world_that_was_trained_in():
    for item in registry.EXPERIMENTS["c1"].items(FULL):
        if isinstance(item, Evaluate) and item.snapshot is not None:
            assert f"stated{item.sample.stated:g}-events{int(item.sample.events)}" in item.of


def test_settings_of_the_dial_start_from_what_knows_the_words_of_all():
    for name in ("c1", "c2"):
        trained = {one.name: one for one in registry.EXPERIMENTS[name].items(FULL) if isinstance(one, Train)}
        starts = [one for one in trained.values() if not one.needs]
        assert all(one.words.count("--stated") == 3 for one in starts)
        assert all(trained[need] in starts for one in trained.values() for need in one.needs)
        assert len(trained) - len(starts) == 16


def test_experiments_share_what_they_can_and_what_starts_elsewhere_shares_nothing():
    of_claim = {name: {item.name for item in one.items(FULL)} for name, one in registry.EXPERIMENTS.items()}
    hard = {name for name in of_claim["a1"] if name.startswith("dmd2-text-to-video")}
    assert hard <= of_claim["a2"]
    assert not of_claim["c1"] & of_claim["a1"]
    assert not of_claim["c2"] & of_claim["b1"]


@pytest.mark.parametrize(
    ("name", "samples"), [("a1", "8,000"), ("a2", "7,813 and 8,000"), ("b1", "16,000"), ("c2", "16,000")]
)
def test_the_sample_says_how_long_trainings_are(name, samples):
    assert f"a run of {samples} samples" in registry.EXPERIMENTS[name].sample(FULL)


def test_an_unknown_claim_is_named():
    with pytest.raises(SuiteError, match="no claim is called 'z9'"):
        registry.chosen(FULL, ["z9"])


def test_the_dial_has_no_quick_form():
    with pytest.raises(SuiteError, match="c1 has no quick form"):
        registry.chosen(QUICK, ["c1"])


def test_a_verdict_needs_a_number():
    with pytest.raises(ValueError, match="needs a value"):
        ClaimRow(id="x", claim="c", paper="p", protocol="p", sample="s", threshold="t", verdict="reproduced")


class Lab:
    """Stands in for training and trials, and dies where it is told to."""

    def __init__(self, out, dies_at=None):
        self.out, self.dies_at, self.asked, self.trained = out, dies_at, [], []

    def ask(self, question):
        if len(self.asked) == self.dies_at:
            raise KeyboardInterrupt
        self.asked.append(question)
        model = str(question.knobs.get("model"))
        if "student" in model:
            raise WeightsMissing("no weights yet")
        return trial(4.0 if "latent" in model else 3.0, sample=question.sample)

    def command(self, words, short=False):
        out = Path(words[words.index("--out") + 1])
        if words[0] == "pack":
            assert (out / "i2v" / "card.json").exists()
            Path(words[words.index("--target") + 1]).mkdir()
            return
        self.trained.append(words)
        folder = out / words[0] if words[0] in ("t2i", "i2v") else out / words[words.index("--name") + 1]
        for step in range(QUICK.snapshots):
            (folder / "snapshots" / f"{step:07d}").mkdir(parents=True)
        samples = int(words[words.index("--samples") + 1])
        (folder / "card.json").write_text(json.dumps({"samples": samples // 2 if short else samples}))


BOTH = registry.chosen(QUICK, ["b1", "b2"])


def driver(lab, experiments=None, out=None, command=None, notes=None, known=None):
    return Driver(
        experiments or BOTH, QUICK, out or lab.out / "store", lab.ask,
        (notes if notes is not None else []).append, command or lab.command, known,
    )  # fmt: skip


def test_the_teacher_of_the_dial_is_trained_once_and_all_of_its_settings_learn_from_it(tmp_path):
    lab = Lab(tmp_path)
    one = driver(lab, [registry.EXPERIMENTS["c1"]])
    assert one.run() == 0
    first, *others = lab.trained
    assert first[0] == "i2v"
    pipeline = str(Path(first[first.index("--out") + 1]) / "pipeline")
    assert all(words[words.index("--teacher") + 1] == pipeline for words in others)
    teachers = [question for question in lab.asked if question.knobs["model"] == pipeline]
    assert len(others) == 16
    assert len(teachers) == 16
    assert {question.sample.stated for question in teachers} == {0.0, 0.5, 1.0}


def test_an_interrupted_run_loses_one_item_and_a_resumed_one_finishes(tmp_path):
    first = Lab(tmp_path, dies_at=5)
    with pytest.raises(KeyboardInterrupt):
        driver(first).run()
    with (tmp_path / "store" / "done.jsonl").open("a") as file:
        file.write('{"key": "torn')
    second = Lab(tmp_path)
    resumed = driver(second)
    assert resumed.run() == 0
    assert len(first.asked) + len(second.asked) == 9
    assert len(first.trained) + len(second.trained) == 10
    assert not resumed.left()
    again = Lab(tmp_path)
    assert driver(again).run() == 0
    assert not again.asked
    table = ClaimsTable.model_validate_json((tmp_path / CLAIMS).read_text())
    by_id = {row.id: row for row in table.rows}
    assert by_id["b1"].value == pytest.approx(math.log(5 / 4))
    assert by_id["b1"].verdict == "reproduced"
    assert by_id["b2"].verdict == "not reproduced"
    assert [curve.name for curve in by_id["b1"].curves] == ["latent", "both"]


def test_what_cannot_be_run_is_left_out_with_what_needs_it(tmp_path):
    notes, lab = [], Lab(tmp_path)

    def broken(words):
        if words[1] == "latent":
            raise RunError("out of memory")
        lab.command(words)

    assert driver(lab, command=broken, notes=notes).run() == 3 + 3
    assert sum("out of memory" in note for note in notes) == 3
    assert sum("it needs prior-latent" in note for note in notes) == 3
    table = ClaimsTable.model_validate_json((tmp_path / CLAIMS).read_text())
    assert {row.id: row.verdict for row in table.rows} == {"b1": "not run yet", "b2": "not reproduced"}


def test_an_answer_without_its_score_is_asked_again(tmp_path):
    notes, lab = [], Lab(tmp_path)

    def blind(question):
        answer = lab.ask(question)
        return answer.model_copy(update={"scores": {}})

    first = Driver(BOTH, QUICK, tmp_path / "store", blind, notes.append, lab.command, None)
    assert first.run() == 9
    assert any("has no fvd-world" in note for note in notes)
    assert len(driver(lab).left()) == 9
    assert driver(lab).run() == 0


def test_one_that_diverged_does_not_stop_the_others(tmp_path):
    notes, lab = [], Lab(tmp_path)

    def ask(question):
        if "latent" in str(question.knobs.get("model")):
            raise InvalidOutputError("1 of 32 clips are one flat colour")
        return lab.ask(question)

    found = Driver(BOTH, QUICK, tmp_path / "store", ask, notes.append, lab.command, None)
    assert found.run() == 3
    table = ClaimsTable.model_validate_json((tmp_path / CLAIMS).read_text())
    assert {row.id: row.verdict for row in table.rows} == {"b1": "not run yet", "b2": "not reproduced"}


def test_what_other_invocations_found_stays_published(tmp_path):
    lab = Lab(tmp_path)
    driver(lab, registry.chosen(QUICK, ["b1"])).run()
    driver(lab, registry.chosen(QUICK, ["d1"])).run()
    shared = ClaimsTable.model_validate_json((tmp_path / CLAIMS).read_text())
    assert {row.id: row.verdict for row in shared.rows} == {"b1": "reproduced", "d1": "not run yet"}
    full = shared.model_copy(update={"scale": "full"})
    (tmp_path / CLAIMS).write_text(full.model_dump_json())
    driver(lab, registry.chosen(QUICK, ["b2"])).run()
    assert ClaimsTable.model_validate_json((tmp_path / CLAIMS).read_text()) == full


@pytest.fixture
def known(tmp_path):
    folder = tmp_path / "published"
    folder.mkdir()
    return folder


B1 = registry.chosen(QUICK, ["b1"])


def test_what_is_published_is_not_run_again(tmp_path, known):
    first = driver(Lab(tmp_path), B1)
    first.run()
    assert published.publish(first.answered(), known) == 6
    assert published.publish(first.answered(), known) == 0
    elsewhere = Lab(tmp_path / "elsewhere")
    second = driver(elsewhere, B1, known=known)
    assert not second.left()
    assert second.run() == 0
    assert not elsewhere.trained
    assert second.table() == first.table()
    # b2 shares half of its trainings with b1: of those nothing is left to ask.
    assert driver(elsewhere, known=known).run() == 0
    assert len(elsewhere.asked) == 3
    assert {words[0] for words in elsewhere.trained} == {"t2i", "prior"}
    assert {words[1] for words in elsewhere.trained if words[0] == "prior"} == {"tokens"}


def test_a_training_of_which_an_answer_lacks_is_run(tmp_path, known):
    first = driver(Lab(tmp_path), B1)
    first.run()
    kept = [done for done in first.answered() if "latent-4000-stated0-events1-seed1" not in done.name]
    published.publish(kept, known)
    lab = Lab(tmp_path / "elsewhere")
    assert driver(lab, B1, known=known).run() == 0
    assert [words[0] for words in lab.trained] == ["t2i", "prior"]
    assert len(lab.asked) == 1


def test_the_published_table_has_what_other_invocations_found(tmp_path, known):
    driver(Lab(tmp_path), B1).run()
    other = driver(Lab(tmp_path), registry.chosen(QUICK, ["b2"]))
    published.publish_table(other.whole(), known)
    table = ClaimsTable.model_validate_json((known / CLAIMS).read_text())
    assert [row.id for row in table.rows] == list(registry.EXPERIMENTS)
    assert {row.id for row in table.rows if row.verdict != "not run yet"} == {"b1"}


def test_an_answer_given_again_takes_the_place_of_the_old_one(tmp_path, known):
    first = driver(Lab(tmp_path), B1)
    first.run()
    published.publish(first.answered(), known)
    changed = [done.model_copy(update={"seconds": 9.0}) for done in first.answered()]
    assert published.publish(changed, known) == 6
    assert {done.seconds for done in published.answers(known).values()} == {9.0}


@pytest.mark.parametrize(
    ("place", "value"),
    [("driver.PROTOCOL", 99), ("runs.SHIFT", 1.5), ("driver.identity", lambda path: "another")],
)
def test_an_answer_ends_with_what_it_rests_on(tmp_path, known, monkeypatch, place, value):
    first = driver(Lab(tmp_path), registry.chosen(QUICK, ["a1"]))
    first.run()
    published.publish(first.answered(), known)
    assert not driver(Lab(tmp_path), first.experiments, tmp_path / "same", known=known).left()
    monkeypatch.setattr(f"bench.claims.{place}", value)
    again = driver(Lab(tmp_path), first.experiments, tmp_path / "other", known=known)
    trials = {item.name for item in again.items if isinstance(item, Evaluate) and item.of}
    assert trials <= {item.name for item in again.left()}


@pytest.mark.parametrize("name", [published.ANSWERS, published.VERDICTS])
def test_a_committed_file_that_cannot_be_read_is_left_as_it_is(tmp_path, known, name):
    (known / name).write_text('{"key": "torn')
    with pytest.raises(RunError, match=rf"(?s){name} cannot be read.*git checkout"):
        driver(Lab(tmp_path), B1, known=known)
    assert (known / name).read_text() == '{"key": "torn'


def test_a_settled_verdict_stands_until_what_it_rests_on_changes(tmp_path, known, monkeypatch):
    done = driver(Lab(tmp_path), B1)
    done.run()
    row = done.table().rows[0]
    line = published.Settled(basis=done.basis(B1[0]), row=row).model_dump_json()
    (known / published.VERDICTS).write_text(line + "\n")
    fresh = driver(Lab(tmp_path), B1, out=tmp_path / "other", known=known)
    assert fresh.table().rows == (row,)
    assert fresh.left()  # a verdict answers no trial
    monkeypatch.setattr("bench.claims.driver.weights.fingerprint", lambda folder: "0123456789")
    changed = driver(Lab(tmp_path), B1, out=tmp_path / "third", known=known)
    assert changed.table().rows[0].verdict == "not run yet"


def test_controls_and_students_that_no_claim_is_about_decide_nothing(tmp_path, monkeypatch):
    (d1,) = registry.chosen(QUICK, ["d1"])
    before = driver(Lab(tmp_path), [d1]).basis(d1)
    monkeypatch.setattr("bench.claims.steps.METHODS", ("dmd2",))
    monkeypatch.setattr("bench.claims.steps.OTHERS", {})
    assert driver(Lab(tmp_path), [d1]).basis(d1) == before
    monkeypatch.setattr("bench.claims.driver._fingerprint", lambda preset: "missing")
    assert driver(Lab(tmp_path), [d1]).basis(d1) != before


def test_the_step_table_has_what_is_answered_and_every_method_by_the_recipe_of_a1(tmp_path):
    class Both(Lab):
        def ask(self, question):
            self.asked.append(question)
            scores = {name: score(3.0) for name in question.metrics}
            return trial(3.0, sample=question.sample).model_copy(update={"scores": scores})

    experiments = registry.chosen(QUICK, ["d1"])
    assert driver(Lab(tmp_path), experiments).table().steps == ()
    lab = Both(tmp_path)
    done = driver(lab, experiments)
    assert done.run() == 0
    steps = done.table().steps
    assert [(row.model, row.steps, row.passes) for row in steps[:2]] == [("lab", 1, 2), ("lab", 2, 4)]
    assert {row.model: row.steps for row in steps[7:-5]} == dict.fromkeys(("lab-student", *OTHERS), 8)
    assert [row.model for row in steps[-5:]] == [f"{method}, 480 samples" for method in runs.METHODS]
    assert {row.passes for row in steps[-5:]} == {4}
    assert {words[1] for words in lab.trained} == set(runs.METHODS)
    a1 = {item.name for item in registry.EXPERIMENTS["a1"].items(QUICK)}
    assert sum(item.name in a1 for item in done.items) == 1  # dmd2 from the first seed: trained once for both
    text = document.markdown(done.experiments, QUICK, done.table(), done.items)
    assert "| lab | 56 | 112 | 3 [2.9, 3.1] |" in text


def test_no_trial_of_the_step_table_asks_what_its_task_cannot_answer():
    """A first frame is given from true frames alone; what lacks a score is no answer."""
    trials = [item for item in registry.EXPERIMENTS["d1"].items(FULL) if isinstance(item, Evaluate)]
    assert {item.knobs["task"] for item in trials} == {"image to video", "text to video at once"}
    for item in trials:
        assert ("first-frame-psnr" in item.metrics) == (item.knobs["task"] == "image to video")


def test_the_command_publishes_and_asks_afresh(tmp_path, known, monkeypatch):
    from typer.testing import CliRunner

    from bench.__main__ import app

    lab = Lab(tmp_path)
    monkeypatch.setattr("bench.claims.published.FOLDER", known)
    monkeypatch.setattr("bench.trials.ask", lab.ask)
    monkeypatch.setattr("bench.claims.driver.in_a_process", lab.command)

    def claims(store, *words):
        words = ("claims", "--quick", "--only", "b1", "--out", str(tmp_path / store / "claims"), *words)
        answer = CliRunner().invoke(app, words, catch_exceptions=False)
        assert answer.exit_code == 0, answer.output
        return answer.output

    assert "6 answers published" in claims("one", "--publish")
    assert len(lab.asked) == 6
    assert "0 of " in claims("two")
    assert len(lab.asked) == 6
    claims("three", "--afresh")
    assert len(lab.asked) == 12


def test_asking_one_claim_afresh_forgets_no_other(tmp_path, known, monkeypatch):
    from typer.testing import CliRunner

    from bench.__main__ import app

    lab = Lab(tmp_path)
    monkeypatch.setattr("bench.claims.published.FOLDER", known)
    monkeypatch.setattr("bench.claims.runs.FULL", dataclasses.replace(QUICK, name="full"))
    monkeypatch.setattr("bench.trials.ask", lab.ask)
    monkeypatch.setattr("bench.claims.driver.in_a_process", lab.command)
    for store, words in (("one", ("b1",)), ("two", ("b2", "--afresh"))):
        command = ("claims", "--publish", "--out", str(tmp_path / store / "claims"), "--only", *words)
        assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    table = ClaimsTable.model_validate_json((known / CLAIMS).read_text())
    assert {row.id for row in table.rows if row.verdict != "not run yet"} == {"b1", "b2"}


def test_what_older_weights_found_gives_way(tmp_path, monkeypatch):
    driver(Lab(tmp_path), registry.chosen(QUICK, ["b1"])).run()
    shared = ClaimsTable.model_validate_json((tmp_path / CLAIMS).read_text())
    (tmp_path / CLAIMS).write_text(shared.model_copy(update={"scale": "full"}).model_dump_json())
    monkeypatch.setattr("bench.claims.driver.weights.fingerprint", lambda folder: "0123456789")
    newer = driver(Lab(tmp_path), registry.chosen(QUICK, ["d1"]))
    newer.run()
    found = ClaimsTable.model_validate_json((tmp_path / CLAIMS).read_text())
    assert (found.scale, found.teacher) == ("quick", "01234567")
    assert [row.id for row in found.rows] == ["d1"]  # nothing is known of b1 any more


def test_a_driver_that_is_told_to_end_takes_its_training_along(tmp_path):
    training, told = tmp_path / "training", tmp_path / "pid"
    training.write_text(f"#!/bin/sh\necho $$ > {told}.tmp && mv {told}.tmp {told}\nexec sleep 100\n")
    training.chmod(0o755)
    code = f"import sys; from bench.claims import driver; sys.executable = {str(training)!r}; driver.in_a_process([])"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        while not told.exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
        with pytest.raises(ProcessLookupError):
            os.kill(int(told.read_text()), 0)
    finally:
        process.kill()


def test_a_training_that_its_minutes_cut_short_is_no_equal_sample(tmp_path):
    notes, lab = [], Lab(tmp_path)
    driver(lab, command=lambda words: lab.command(words, short=True), notes=notes).run()
    assert any("ended at 8,000 of 16,000 samples" in note for note in notes)


def test_a_student_that_is_not_there_yet_leaves_its_claims_open(tmp_path):
    lab = Lab(tmp_path)
    experiments = registry.chosen(QUICK, ["d1"])
    assert driver(lab, experiments).run() > 0
    table = ClaimsTable.model_validate_json((tmp_path / CLAIMS).read_text())
    assert table.rows[0].verdict == "not run yet"


def test_what_was_found_before_and_what_was_done_otherwise_is_said(tmp_path, known):
    (d4,) = registry.chosen(QUICK, ["d4"])
    asked = driver(Lab(tmp_path), [d4])
    text = document.markdown([d4], QUICK, asked.table(), asked.items)
    assert "asked before: 0.846 [0.783, 0.919] of the student as it was trained, not reproduced)" in text
    assert "- *Departure*: after the first asking" in text
    # Of a row that was committed before it had them, too.
    plain = asked.table().rows[0].model_copy(update={"earlier": "", "value": 1.0, "verdict": "reproduced"})
    settled = published.Settled(basis=asked.basis(d4), row=plain).model_dump_json()
    (known / published.VERDICTS).write_text(settled + "\n")
    (row,) = driver(Lab(tmp_path), [d4], known=known).table().rows
    assert (row.value, row.earlier, row.departure) == (1.0, d4.earlier, d4.departure)


def test_the_committed_table_and_document_are_what_the_committed_answers_say(tmp_path):
    """Mended by `python -m bench claims --dry-run --publish --doc docs/claims.md`."""
    every = registry.chosen(FULL)
    asked = Driver(every, FULL, tmp_path, Lab(tmp_path).ask, print)
    table = asked.whole()
    assert published.PUBLISHED_CLAIMS.read_text("utf-8") == (
        table.model_dump_json(indent=1, exclude_defaults=True) + "\n"
    )
    text = document.markdown(every, FULL, table, asked.items)
    assert (ROOT / "docs" / "claims.md").read_text("utf-8") == text


def test_training_costs_what_is_counted():
    """`TRAINING_GFLOP` by PyTorch's counter, on a device that computes nothing."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from magic141.presets import LAB
    from magic141.train.distill import METHODS, Plan
    from magic141.train.flow import Batch
    from magic141.transformer import Magic141Transformer3DModel

    def zeros(*shape, **how):
        return torch.zeros(*shape, device="meta", **how)

    with torch.device("meta"):
        models = [Magic141Transformer3DModel(**dataclasses.asdict(LAB.transformer)) for _ in range(2)]
    step = METHODS["dmd2"](tuple(models), (zeros(1, 40, 128), zeros(1, 128)), Plan(method="dmd2")).to("meta")
    seeds = (0, 5)  # they exit at the first step and at the last, and the mean of both is that of all
    exits = [int(torch.randint(4, (), generator=torch.Generator().manual_seed(seed))) for seed in seeds]
    assert exits == [0, 3]
    shapes = {"image-to-video": (9, 1), "text-to-video": (9, 0), "text-to-image": (1, 0)}
    for task, (frames, known) in shapes.items():
        batch = Batch(
            latents=zeros(1, 16, frames, 8, 8), known=known, continuation=zeros(1, dtype=torch.bool),
            text_tokens=zeros(1, 24, 128), pooled=zeros(1, 128),
            image_tokens=zeros(1, 16, 128) if known else None, cover=zeros(1, frames, 16, 16),
        )  # fmt: skip
        with FlopCounterMode(display=False) as counter:
            for seed, turn in itertools.product(seeds, range(step.turns)):
                step(turn, batch, torch.Generator().manual_seed(seed))["loss"].backward()
        counted = counter.get_total_flops() / (step.turns * len(seeds)) / 1e9
        assert counted == pytest.approx(runs.TRAINING_GFLOP[task], rel=0.02), task


def test_the_document_shows_numbers_and_verdicts(tmp_path):
    lab = Lab(tmp_path)
    done = driver(lab)
    done.run()
    text = document.markdown(done.experiments, QUICK, done.table(), done.items)
    assert "| b1 |" in text
    assert "0.223" in text
    assert "**not reproduced**" in text
