"""Gates over scripted trees: every verdict, and what must never be a pass."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import hardware
from bench.errors import RunError, SuiteError
from bench.gate import environments
from bench.gate.journal import Journal
from bench.gate.run import Result, default_journal, forks, order
from bench.gate.verdicts import Verdict
from tests.bench.gate.conftest import SCRIPT, Repository

Gate = Callable[..., Result]


def verdicts(result: Result) -> dict[str, Verdict]:
    return {finding.check: finding.verdict for finding in result.findings}


def reason(result: Result) -> str:
    (finding,) = [finding for finding in result.findings if finding.verdict == "INVALID"]
    return finding.detail


def test_a_commit_against_itself_passes_however_often_it_is_interrupted(gate: Gate, tmp_path: Path) -> None:
    """An interrupted gate loses the restart in flight; a finished one says again what it said."""

    def interrupt(text: str) -> None:
        if text.startswith("restart 4 "):
            raise KeyboardInterrupt

    path = tmp_path / "journal.jsonl"
    with pytest.raises(KeyboardInterrupt):
        gate("base", "base", say=interrupt)
    kept = path.read_bytes()
    assert sum("restart" in json.loads(line) for line in kept.splitlines()) == 3
    path.write_bytes(kept + b'{"restart": {"step": {"ba')
    first = gate("base", "base")
    assert path.read_bytes().startswith(kept)
    assert first.verdict == "PASS", first.findings
    assert set(verdicts(first).values()) == {"PASS"}
    (restarts,) = first.restarts.values()
    assert len(restarts) == 12
    assert {len(one.base) for one in restarts} == {len(one.head) for one in restarts} == {2}
    content = path.read_bytes()
    again = gate("base", "base")
    assert path.read_bytes() == content
    assert again.findings == first.findings
    with pytest.raises(RunError, match="gates differ"):
        gate("base", "base", policy={"restarts": [13]})


def test_each_check_speaks_for_itself(gate: Gate, repository: Repository) -> None:
    # A quarter slower, where a fifth is allowed: of that, two restarts in twelve could hide enough in their own noise.
    repository.commit("calm", RESTART_SIGMA=0.0)
    grown = SCRIPT["COUNTERS"] | {"peak_tensor_bytes": 2100, "flops": 4000}
    repository.commit("head", SECONDS=0.0025, RESTART_SIGMA=0.0, COUNTERS=grown, OUTPUT=b"other")
    result = gate("calm", "head")
    assert result.verdict == "FAIL"
    assert verdicts(result) == {
        "latency": "FAIL",
        "parameter_bytes": "PASS",
        "flops": "PASS",
        "peak_tensor_bytes": "FAIL",
        "aten_calls": "PASS",
        "output": "NOTICE",
    }


def test_worse_scores_fail_a_faster_head(gate: Gate, repository: Repository) -> None:
    repository.commit("head", SECONDS=0.0005, NOISE=0.4)
    quality = {
        "adapter": "bench.baselines.scripted:ScriptedClips",
        "prompts": {"texts": ["a", "b", "c"]},
        "scorer": "bench.baselines.fake:SCORER",
        "margins": {"noise": 0.01, "brightness": 0.05},
    }
    result = gate("base", "head", quality=quality)
    expected = {"noise": "FAIL", "brightness": "PASS", "latency": "PASS"}
    assert verdicts(result) | expected == verdicts(result)
    assert result.verdict == "FAIL"


@pytest.mark.parametrize(
    ("extra", "changes", "said"),
    [
        ("COUNTERS['flops'] = float('nan')", {}, "head has no such number"),
        ("SECONDS = float('nan')", {}, "head says that a block of step took nan s"),
        ("SECONDS = 0.0", {}, "head says that a block of step took 0.0 s"),
        ("def FAULT(): raise KeyError('lost')", {}, "head: KeyError: 'lost'"),
        ("def FAULT(): print('last words', flush=True); import os; os._exit(3)", {}, "last words"),
        ("def FAULT(): import time; time.sleep(60)", {}, "gave no answer within 2 s"),
        ("del SECONDS", {}, "AttributeError"),
        ("import numpy; OUTPUT = numpy.array([1.0, numpy.nan])", {}, "not finite"),
        (
            "import sys, types; m = types.ModuleType('magic141.x'); m.__file__ = '/x'; sys.modules[m.__name__] = m",
            {},
            "magic141.x from",
        ),
    ],
)
def test_what_cannot_be_measured_is_invalid(
    gate: Gate, repository: Repository, extra: str, changes: dict[str, object], said: str
) -> None:
    repository.commit("head", extra, **changes)
    result = gate("base", "head", time_limit=2 if "sleep" in extra else 30)
    assert result.verdict == "INVALID"
    assert any(said in finding.detail for finding in result.findings), result.findings


def test_a_gate_that_breaks_is_invalid_and_no_failure_of_head(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "add", full)
    assert reason(gate("base", "base")) == "the gate broke: OSError: [Errno 28] No space left on device"


def test_weights_of_the_users_own_do_not_stand_in_for_those_of_a_tree(
    gate: Gate, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGIC141_WEIGHTS", "/elsewhere")
    repository.commit(
        "head", "def FAULT(): import os; raise RuntimeError(os.environ.get('MAGIC141_WEIGHTS'))"
    )
    assert "RuntimeError: None" in reason(gate("base", "head"))


def test_a_base_without_the_workloads_api_is_invalid(gate: Gate, repository: Repository) -> None:
    (repository.path / "magic141" / "scripted.py").rename(repository.path / "magic141" / "other.py")
    repository.commit_files("old")
    result = gate("old", "base")
    assert result.verdict == "INVALID"
    assert "No module named 'magic141.scripted'" in reason(result)


def test_equal_trees_of_different_commits_are_invalid(gate: Gate, repository: Repository) -> None:
    (repository.path / "notes.txt").write_text("")
    repository.commit_files("same")
    assert "are the same" in reason(gate("base", "same"))
    assert "are the same" in reason(gate("base", "worktree"))


def test_a_commit_without_the_package_is_invalid(gate: Gate, repository: Repository) -> None:
    repository.git("rm", "-rq", "magic141")
    repository.commit_files("empty")
    assert "has no package magic141/" in reason(gate("empty", "base"))


def test_the_worktree_is_measured_as_it_lies_there(
    gate: Gate, repository: Repository, tmp_path: Path
) -> None:
    repository.write(COUNTERS=SCRIPT["COUNTERS"] | {"flops": 0})
    (repository.path / "magic141" / "new.py").write_text("")  # untracked, and part of it
    (repository.path / "magic141" / "precision.py").unlink()  # tracked, and gone
    result = gate("base", "worktree")
    assert verdicts(result)["flops"] == "INVALID"


def test_an_unknown_ref_is_an_error(gate: Gate) -> None:
    with pytest.raises(RunError, match="Is the ref right, and fetched"):
        gate("base", "nowhere")


def test_an_expired_waiver_is_an_error(gate: Gate) -> None:
    waiver = {
        "cell": "step",
        "check": "flops",
        "reason": "a wider block is worth it",
        "expires": "2020-01-01",
    }
    with pytest.raises(SuiteError, match="flops of step expired on 2020-01-01"):
        gate("base", "base", waivers=[waiver])


def test_other_constraints_get_an_environment_of_their_own(
    gate: Gate, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a script around this interpreter, which leaves a mark."""

    def make(words: list[str]) -> None:
        made.append(list(words))
        if "venv" in words:
            python = Path(words[-1], "bin", "python")
            python.parent.mkdir(parents=True)
            python.write_text(f'#!/bin/sh\nMARK=another exec {sys.executable} "$@"\n')
            python.chmod(0o755)

    made: list[list[str]] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(environments, "_run", make)
    (repository.path / "constraints.txt").write_text("numpy==1.0\n")
    repository.commit("head", "def FAULT(): import os; raise RuntimeError(os.environ.get('MARK'))")
    assert "head: RuntimeError: another" in reason(gate("base", "head"))
    assert "--constraint" in made[-1]
    assert any(word.startswith("numpy") for word in made[-1])

    def fail(words: list[str]) -> None:
        raise OSError("no network")

    monkeypatch.setattr(environments, "_run", fail)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    assert "no network" in reason(gate("base", "head"))
    (repository.path / "constraints.txt").unlink()
    repository.commit_files("none")
    assert "has no constraints.txt" in reason(gate("none", "base", "third.jsonl"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_no_directory_with_another_magic141_is_on_the_path(gate: Gate, repository: Repository) -> None:
    """The editable install has put one on the path of this interpreter."""
    code = (
        "import sys, pathlib\nfound = [p for p in sys.path[1:] if (pathlib.Path(p) / 'magic141').exists()]\n"
    )
    repository.commit("head", code + "def FAULT(): raise RuntimeError(f'{found} {len(sys.path)}')")
    said = reason(gate("base", "head"))
    assert "RuntimeError: []" in said
    assert any((Path(entry) / "magic141").exists() for entry in [*sys.path, str(hardware.ROOT)])


def test_who_is_forked_first_is_balanced_against_who_begins() -> None:
    seen = [(forks(restart)[0], next(order(4, restart))) for restart in range(12)]
    assert {pair: seen.count(pair) for pair in seen} == dict.fromkeys(
        [(name, first) for name in ("base", "head") for first in (True, False)], 3
    )


def test_the_order_is_balanced() -> None:
    """Linear drift cancels within four pairs, and who begins alternates between restarts."""
    for restart in range(4):
        first = list(order(4, restart))
        sign = [1 if base_first else -1 for base_first in first]
        assert sum(sign) == 0
        assert sum(place * side for place, side in enumerate(sign)) == 0
        assert first[0] is (restart % 2 == 0)


def test_gates_of_the_same_second_have_journals_of_their_own(tmp_path: Path) -> None:
    assert len({default_journal(tmp_path) for _ in range(5)}) == 5


def test_other_constraints_make_another_side(
    gate: Gate, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pull request that moves a pin alone changes what the same package runs with."""
    monkeypatch.setattr(environments, "interpreter", lambda tree, say: sys.executable)
    (repository.path / "constraints.txt").write_text("numpy==1.0\n")
    repository.commit_files("pinned")
    assert gate("base", "pinned").verdict == "PASS"
    with pytest.raises(RunError, match="head differ"):
        gate("base", "base")


def test_a_file_that_is_no_journal_is_left_alone(gate: Gate, tmp_path: Path) -> None:
    notes = tmp_path / "journal.jsonl"
    for content in ("one line without an end", "two\nlines\n"):
        notes.write_text(content)
        with pytest.raises(RunError, match="no journal of a gate"):
            gate("base", "base")
        assert notes.read_text() == content
