"""The table, and `docs/claims.md`."""

from pathlib import Path

import pytest

from bench.claims import document, published, registry, runs
from bench.claims.driver import Driver
from bench.claims.runs import FULL, QUICK
from bench.claims.steps import OTHERS
from tests.bench.claims.answers import score, trial
from tests.bench.claims.lab import Lab, driver

ROOT = Path(__file__).parents[3]


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


def test_the_document_shows_numbers_and_verdicts(tmp_path):
    lab = Lab(tmp_path)
    done = driver(lab)
    done.run()
    text = document.markdown(done.experiments, QUICK, done.table(), done.items)
    assert "| b1 |" in text
    assert "0.223" in text
    assert "**not reproduced**" in text


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
    assert [(row.name, row.steps, row.passes) for row in steps[7:9]] == [
        ("lab, unipc", 4, 8),
        ("lab, unipc", 8, 16),
    ]
    assert {row.model: row.steps for row in steps[9:-5]} == dict.fromkeys(("lab-student", *OTHERS), 8)
    assert [row.model for row in steps[-5:]] == [f"{method}, 480 samples" for method in runs.METHODS]
    assert {row.passes for row in steps[-5:]} == {4}
    assert {words[1] for words in lab.trained} == set(runs.METHODS)
    a1 = {item.name for item in registry.EXPERIMENTS["a1"].items(QUICK)}
    assert sum(item.name in a1 for item in done.items) == 1  # dmd2 from the first seed: trained once for both
    text = document.markdown(done.experiments, QUICK, done.table(), done.items)
    assert "| lab | 56 | 112 | 3 [2.9, 3.1] |" in text


def test_what_was_found_before_and_what_was_done_otherwise_is_said(tmp_path):
    (d4,) = registry.chosen(QUICK, ["d4"])
    asked = driver(Lab(tmp_path), [d4])
    text = document.markdown([d4], QUICK, asked.table(), asked.items)
    assert (
        "asked before: 0.846 [0.783, 0.919] of the student as it was trained, not reproduced, then 0.96"
        in text
    )
    assert "- *Departure*: first asked of the student as it was trained" in text


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
