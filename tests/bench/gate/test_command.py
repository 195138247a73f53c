"""The command line of a gate: exit codes, files, stored baselines."""

import json
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from typer.testing import CliRunner

from bench import hardware
from bench.__main__ import app
from bench.gate import baseline, config, report, trees
from bench.gate.run import Result
from tests.bench.gate.conftest import GATES, SCRIPT, Repository

Run = Callable[..., tuple[int, str]]
QUALITY = {
    "adapter": "bench.baselines.lab:Lab",
    "prompts": {"split": "test", "count": 4},
    "margins": {"accuracy-mean": 0.1},
}


@pytest.fixture
def bench(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`python -m bench gate` where refs are those of the repository of the tests."""
    extract = trees.extract
    monkeypatch.setattr(
        trees, "extract", lambda ref, folder, root=None: extract(ref, folder, repository.path)
    )
    gates = tmp_path / "gates.yaml"
    gates.write_text(yaml.safe_dump(GATES))

    def run(*words: str | Path) -> tuple[int, str]:
        common = ["gate", "--gates", gates, "--out", tmp_path / "out"]
        done = CliRunner().invoke(app, [str(word) for word in [*common, *words]], env={"COLUMNS": "200"})
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output + done.stderr

    return run


def test_a_gate_from_words_to_files(bench: Run, repository: Repository, tmp_path: Path) -> None:
    repository.commit("grown", COUNTERS=SCRIPT["COUNTERS"] | {"flops": 6000})
    files = {name: tmp_path / "made" / f"gate.{name}" for name in ("json", "markdown", "junit")}
    words = [word for name, path in files.items() for word in (f"--{name}", path)]
    code, said = bench("--base", "base", "--head", "grown", *words, "--record", tmp_path / "records.jsonl")
    assert code == 1
    assert "gate FAIL" in said
    assert "grows by more than 0.00%" in said
    found = json.loads(files["json"].read_text())
    assert (found["verdict"], found["exit_code"], len(found["restarts"]["step"])) == ("FAIL", 1, 12)
    assert "| step | flops | **FAIL** |" in files["markdown"].read_text()
    from junitparser import Failure, JUnitXml

    (suite,) = JUnitXml.fromfile(str(files["junit"]))
    failed = {case.name for case in suite if any(isinstance(one, Failure) for one in case.result)}
    assert failed == {"flops"}
    assert suite.tests == len(found["findings"])

    code, said = bench("--base", "base", "--head", "grown", "--base-records", tmp_path / "records.jsonl")
    assert code == 1, said
    assert "base is stored" in said
    repository.commit("other", NOISE=0.3)
    code, said = bench("--base", "other", "--head", "grown", "--base-records", tmp_path / "records.jsonl")
    assert code == 2
    assert "no baseline of cell step for other" in said
    records = tmp_path / "records.jsonl"
    records.write_text(records.read_text().replace(baseline.fingerprint(), "0123456789abcdef"))
    code, said = bench("--base", "base", "--head", "grown", "--base-records", records)
    assert code == 2
    assert "cell step has fingerprint 0123456789abcdef" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--head", "nowhere"], "Is the ref right"),
        (["--gates", "no.yaml"], "cannot be read"),
        (["--resume", "no.jsonl"], "no journal"),
        (["--base-records", "no.jsonl"], "no stored baselines"),
        (["--base-records", "no.jsonl", "--record", "x/y"], "exclude each other"),
    ],
)
def test_wrong_words_end_with_code_2(bench: Run, words: list[str], said: str) -> None:
    code, output = bench("--base", "base", *words)
    assert code == 2
    assert said in output


def test_invalid_gates_end_with_code_3_and_write_their_files(
    bench: Run, repository: Repository, tmp_path: Path
) -> None:
    repository.commit("head", "def FAULT(): raise KeyError('lost')")
    code, said = bench("--base", "base", "--head", "head", "--junit", tmp_path / "junit.xml")
    assert code == 3
    assert "lost" in said
    assert "<error" in (tmp_path / "junit.xml").read_text()


def test_an_inconclusive_gate_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    import datetime

    from rich.console import Console

    from bench.gate.verdicts import EXIT_CODES, Finding

    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    result = Result("a", "b", "f", now, 1.0, [Finding("c", "latency", "INCONCLUSIVE", detail="wide")])
    report.show(Console(width=200), result)
    assert "not run again until it is green" in capsys.readouterr().out
    assert EXIT_CODES[result.verdict] == 4
    assert "skipped" in report.junit(result)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cell": {}}, "unknown key 'cell'; did you mean 'cells'?"),
        (
            {"cells": {"a": {"workload": "bench.gate.workloads:DenoiseStep", "knobs": {"modle": 1}}}},
            "'model'",
        ),
        ({"cells": {"a": {"workload": "bench.gate.workloads:Denoise"}}}, "did you mean 'DenoiseStep'?"),
        ({"tolerances": {"flop": 0.1}}, "did you mean 'flops'?"),
        (
            {
                "waivers": [
                    {"cell": "stop", "check": "flops", "reason": "because of it", "expires": "2030-01-01"}
                ]
            },
            "'step'",
        ),
        (
            {
                "waivers": [
                    {"cell": "step", "check": "flop", "reason": "because of it", "expires": "2030-01-01"}
                ]
            },
            "'flops'",
        ),
        ({"waivers": [{"cell": "step", "check": "flops", "reason": "short", "expires": "2030-01-01"}]}, "10"),
        ({"policy": {"restarts": [5]}}, "fewer than 12"),
        ({"policy": {"restarts": [12], "alpha": 1e-8}}, "12 restarts can never end in FAIL"),
        ({"policy": {"restarts": [12], "beta": 1e-8}}, "12 restarts can never end in PASS"),
        ({"quality": QUALITY | {"margins": {"fvd-world": 0.5}}}, "fvd-world is of all clips together"),
        ({"quality": QUALITY | {"prompts": {"split": "test", "count": 1}}}, "give 2 at the very least"),
        ({"cells": {"a": {"workload": "bench.baselines.scripted:Scripted", "pairs": 3}}}, "multiple of 2"),
        ({"cells": {"a": {"workload": "x:Y", "passes": 0}}}, "cells.a.passes: .* .got 0."),
    ],
)
def test_a_wrong_gates_file_names_the_remedy(tmp_path: Path, change: dict[str, object], said: str) -> None:
    path = tmp_path / "gates.yaml"
    path.write_text(yaml.safe_dump(GATES | change))
    with pytest.raises(config.SuiteError, match=said.replace("?", r"\?")):
        config.read(path)


def test_the_gates_of_the_project_are_valid() -> None:
    gates = config.read(config.DEFAULT)
    assert gates.quality is not None
    assert hardware.ROOT / "bench" / "gates.yaml" == config.DEFAULT


def test_what_a_worker_says_is_shown_as_it_is(bench: Run, repository: Repository, tmp_path: Path) -> None:
    said_by_head = "no weights in [/one/x, /two/y]:\n\t[b, c] \x1b[31m| end"
    repository.commit("head", f"def FAULT(): raise KeyError({said_by_head!r}) from None")
    junit, markdown = tmp_path / "gate.xml", tmp_path / "gate.md"
    code, said = bench("--base", "base", "--head", "head", "--junit", junit, "--markdown", markdown)
    assert code == 3
    assert "[/one/x, /two/y]" in " ".join(said.split())
    ElementTree.parse(junit)
    (row,) = [line for line in markdown.read_text().split("<details>")[0].splitlines() if "INVALID**" in line]
    assert row.count("|") == len(report.HEADINGS) + 1
    assert row.endswith("|")


def test_a_name_with_brackets_survives(capsys: pytest.CaptureFixture[str]) -> None:
    import datetime

    from rich.console import Console

    from bench.gate.verdicts import Finding

    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    finding = Finding("step [fp32]", "flops", "FAIL", detail="three\nlines [/x]\x07")
    result = Result("a", "b", "f", now, 1.0, [finding])
    report.show(Console(width=200), result)
    out = capsys.readouterr().out
    assert "step [fp32]" in out
    assert "three lines [/x]" in out


@pytest.mark.parametrize("option", ["--json", "--markdown", "--junit", "--record"])
def test_a_folder_is_no_file_and_is_refused_before_anything_is_measured(
    bench: Run, tmp_path: Path, option: str
) -> None:
    code, said = bench("--base", "base", "--head", "base", option, tmp_path)
    assert code == 2
    assert "name a file in it" in " ".join(said.split())


def test_a_record_file_that_is_none_is_left_alone(bench: Run, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine\n")
    code, _ = bench("--base", "base", "--head", "base", "--record", notes)
    assert code == 2
    assert notes.read_text() == "mine\n"


def test_a_gate_that_is_told_to_end_cleans_up(
    bench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    extract = trees.extract

    def end(*words: object) -> trees.Tree:
        os.kill(os.getpid(), signal.SIGTERM)
        return extract(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(trees, "extract", end)
    before = signal.getsignal(signal.SIGTERM)
    code, said = bench("--base", "base", "--head", "base")
    assert code == 130
    assert "before anything was measured" in said
    assert not list(tmp_path.glob("gate-*"))
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_cell_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gates.yaml"
    cell = "{workload: bench.baselines.scripted:Scripted}"
    path.write_text(f"cells:\n  step: {cell}\n  step: {cell}\n")
    with pytest.raises(config.SuiteError, match="line 3 names 'step' a second time"):
        config.read(path)
