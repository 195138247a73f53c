"""`python -m bench claims`."""

import dataclasses

from typer.testing import CliRunner

from bench.__main__ import app
from bench.claims.runs import QUICK
from bench.records import CLAIMS, ClaimsTable
from tests.bench.claims.lab import Lab


def test_the_command_publishes_and_asks_afresh(tmp_path, known, monkeypatch):
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
