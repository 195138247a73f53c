import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bench import folders
from bench.__main__ import app

ROOT = Path(__file__).parents[2]
SuiteFile = Callable[..., Path]
ONE = "fake: {adapter: 'bench.baselines.fake:Fake', axes: {num_inference_steps: [1, 2]}}"


def bench(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output + result.stderr


def test_the_command_line_is_frozen() -> None:
    """Scripts and CI call these words: a change here is a change for them."""
    group = typer.main.get_command(app)
    found = {
        name: [
            option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
        ]
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }
    assert found == {
        "run": [
            "suite",
            "--dry-run",
            "--resume",
            "--retry",
            "--out",
            "--only",
            "--no-report",
            "--shard",
            "--ray",
        ],
        "merge": ["runs", "--out", "--mixed", "--no-report"],
        "ls": ["--out"],
        "show": ["name", "--out", "--cell"],
        "diff": ["first", "second", "--out", "--cells"],
        "gate": [
            "--base",
            "--head",
            "--gates",
            "--json",
            "--markdown",
            "--junit",
            "--base-records",
            "--record",
            "--resume",
            "--out",
        ],
        "gate-power": ["--gates", "--seed", "--methods", "--json"],
        "analytic": ["--json", "--markdown"],
        "check": ["adapter", "--knob"],
        "reconstruct": ["--model", "--clips"],
        "select": [
            "runs",
            "--out",
            "--steps",
            "--guidance",
            "--shift",
            "--task",
            "--teacher",
            "--teacher-steps",
            "--teacher-guidance",
            "--teacher-shift",
            "--prompts",
            "--spread",
            "--seeds",
        ],
        "claims": ["--quick", "--only", "--dry-run", "--out", "--afresh", "--publish", "--doc"],
        "schema": [],
    }


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["run", "--help"],
        ["analytic", "--help"],
        ["schema"],
        ["ls"],
        ["run", "bench/suites/lab.yaml", "--dry-run"],
        ["run", "no"],
        ["gate", "--base", "no"],
    ],
    ids=" ".join,
)
def test_words_alone_import_no_torch(words: list[str]) -> None:
    code = (
        "import runpy, sys\n"
        "try: runpy.run_module('bench', run_name='__main__', alter_sys=True)\n"
        "except SystemExit: pass\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'transformers')))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_a_dry_run_writes_nothing(tmp_path: Path, suite_file: SuiteFile) -> None:
    code, said = bench("run", suite_file(ONE), "--out", tmp_path / "out", "--dry-run")
    assert code == 0
    assert "predicted: 2 cells" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("only", "said"),
    [
        ("fack", "did you mean 'fake'?"),
        ("num_inference_step=1", "did you mean 'num_inference_steps'?"),
        ("num_inference_steps=3", "it is one of 1, 2"),
        ("num_inference_steps=1,num_inference_steps=2", "leaves no cell"),
        ("", "no system or cell id"),
    ],
)
def test_a_bad_only_is_refused(tmp_path: Path, suite_file: SuiteFile, only: str, said: str) -> None:
    code, output = bench("run", suite_file(ONE), "--out", tmp_path / "out", "--only", only)
    assert code == 2
    assert said in output
    assert not (tmp_path / "out").exists()


def test_only_selects(tmp_path: Path, suite_file: SuiteFile) -> None:
    def cells(*words: str) -> int:
        code, output = bench("run", suite_file(ONE), "--out", tmp_path / "out", "--dry-run", *words)
        assert code == 0
        return int(output.split("predicted: ")[1].split()[0])

    assert cells("--only", "fake") == 2
    assert cells("--only", "fake,num_inference_steps=2") == 1
    assert cells("--only", "num_inference_steps=1", "--only", "num_inference_steps=2") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "name a suite"),
        (["run", "no/such.yaml"], "cannot be read"),
        (["run", "--resume", "nothing"], "no run 'nothing'"),
        (["run", "--resume", "latest"], "there is no latest run"),
        (["show", "nothing"], "no run 'nothing'"),
        (["diff", "a", "b"], "no run 'a'"),
    ],
)
def test_mistakes_end_with_code_2(tmp_path: Path, words: list[str], said: str) -> None:
    code, output = bench(*words, "--out", tmp_path / "out")
    assert code == 2
    assert said in output
    assert "Traceback" not in output
    assert not (tmp_path / "out").exists()


def test_an_unknown_key_ends_with_code_2(tmp_path: Path, suite_file: SuiteFile) -> None:
    path = suite_file(ONE)
    path.write_text(path.read_text() + "seeed: [0]\n")
    code, output = bench("run", path, "--out", tmp_path / "out")
    assert code == 2
    assert "unknown key 'seeed'; did you mean 'seeds'?" in output
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_ends_with_code_2(tmp_path: Path, suite_file: SuiteFile) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "under"):
        code, output = bench("run", suite_file(ONE), "--out", out)
        assert code == 2
        assert "cannot be written" in output
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        assert bench("run", suite_file(ONE), "--out", tmp_path / "locked" / "out")[0] == 2


def test_a_store_of_claims_has_one_driver(tmp_path: Path) -> None:
    with folders.exclusive(tmp_path / "store"):
        code, output = bench("claims", "--quick", "--dry-run", "--out", tmp_path / "store")
    assert code == 2
    assert "in use by another bench" in output
    assert bench("claims", "--quick", "--dry-run", "--out", tmp_path / "store")[0] == 0
    assert [path.name for path in (tmp_path / "store").iterdir()] == [".lock"]


def test_the_answers_of_select_have_one_writer(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "model_index.json").touch()
    with folders.exclusive(tmp_path / "choice"):
        code, output = bench("select", tmp_path / "student", "--out", tmp_path / "choice")
    assert code == 2
    assert "in use by another bench" in output


def test_a_damaged_store_ends_with_code_2(tmp_path: Path, suite_file: SuiteFile) -> None:
    out = tmp_path / "out"
    assert (
        bench("run", suite_file(ONE), "--out", out, "--no-report", "--only", "num_inference_steps=1")[0] == 0
    )
    (store,) = out.glob("*/records.jsonl")
    store.write_bytes(b"{]\n" + store.read_bytes())
    code, output = bench("run", "--resume", "latest", "--out", out)
    assert code == 2
    assert "records.jsonl:1 is no record" in output


def test_runs_are_listed_shown_and_compared(tmp_path: Path, suite_file: SuiteFile) -> None:
    out = tmp_path / "out"
    assert bench("ls", "--out", out)[1].strip() == f"no runs in {out}"
    for _ in range(2):
        code, output = bench("run", suite_file(ONE), "--out", out, "--no-report")
        assert code == 0
        assert "2 cells, all ok" in output
        assert "(predicted" in output
    first, second = sorted(path.parent.name for path in out.glob("*/run.json"))
    listed = bench("ls", "--out", out)[1]
    assert first in listed
    assert second in listed
    shown = bench("show", "--out", out)[1]
    assert "num_inference_steps=2" in shown
    assert "brightness" in shown
    compared = bench("diff", first, second, "--out", out)[1]
    assert compared.count("no difference shown") == 4
    assert "one process each" in compared
    one, two = (
        json.loads(line)["cell"] for line in (out / first / "records.jsonl").read_text().splitlines()[:2]
    )
    assert "brightness" in bench("diff", first, first, "--out", out, "--cells", one[:8], two[:8])[1]
    assert json.loads(bench("show", first, "--out", out, "--cell", one[:8])[1])["cell"] == one
    code, output = bench("show", first, "--out", out, "--cell", "zzzz")
    assert code == 2
    assert "0 cells" in output


def test_runs_of_different_suites_cannot_be_paired(tmp_path: Path, suite_file: SuiteFile) -> None:
    out = tmp_path / "out"
    other = ONE.replace("[1, 2]", "[1]")
    assert (
        bench("run", suite_file(ONE, "a"), "--out", out, "--no-report", "--only", "num_inference_steps=2")[0]
        == 0
    )
    assert bench("run", suite_file(other, "b"), "--out", out, "--no-report")[0] == 0
    names = sorted(path.parent.name for path in out.glob("*/run.json"))
    code, output = bench("diff", *names, "--out", out)
    assert code == 2
    assert "no cell in common" in output


def test_nothing_ok_is_a_failure(tmp_path: Path, suite_file: SuiteFile) -> None:
    bad = "bad: {adapter: 'bench.baselines.fake:Fake', knobs: {outcome: weights-missing}}"
    code, output = bench("run", suite_file(bad), "--out", tmp_path / "out", "--no-report")
    assert code == 1
    assert "weights-missing" in output


def test_the_schema_is_json() -> None:
    assert json.loads(bench("schema")[1])["title"] == "Suite"
