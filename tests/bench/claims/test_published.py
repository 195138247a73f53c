"""What is committed of earlier runs, and what it is bound to."""

import pytest

from bench.claims import published, registry
from bench.claims.items import Evaluate
from bench.claims.runs import QUICK
from bench.errors import RunError
from bench.records import CLAIMS, ClaimsTable
from tests.bench.claims.lab import B1, Lab, driver


def test_what_is_published_is_not_run_again(tmp_path, known):
    first = driver(Lab(tmp_path), B1)
    first.run()
    assert published.publish(first.answered(), known) == 6
    assert published.publish(first.answered(), known) == 0
    assert str(tmp_path) not in (known / published.ANSWERS).read_text()  # where the store lies
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


def test_a_committed_file_that_cannot_be_read_is_left_as_it_is(tmp_path, known):
    path = known / published.ANSWERS
    path.write_text('{"key": "torn')
    with pytest.raises(RunError, match=r"(?s)answers.jsonl cannot be read.*git checkout"):
        driver(Lab(tmp_path), B1, known=known)
    assert path.read_text() == '{"key": "torn'
