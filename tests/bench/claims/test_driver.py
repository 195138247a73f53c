"""A driver that runs what is left, and resumes."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.claims import registry
from bench.claims.driver import Driver
from bench.claims.runs import QUICK
from bench.errors import InvalidOutputError, RunError
from bench.records import CLAIMS, ClaimsTable
from tests.bench.claims.lab import BOTH, Lab, driver


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


def test_what_rests_on_other_code_is_trained_anew_in_the_same_store(tmp_path, monkeypatch):
    lab = Lab(tmp_path)
    assert driver(lab).run() == 0
    trained, asked = len(lab.trained), len(lab.asked)
    monkeypatch.setattr("bench.claims.driver.PROTOCOL", 99)
    assert driver(lab).run() == 0
    assert (len(lab.trained), len(lab.asked)) == (2 * trained, 2 * asked)
    assert len({tuple(words) for words in lab.trained}) == 2 * trained  # each in a folder of its own


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
