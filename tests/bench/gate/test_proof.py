"""Real trees with real faults in them: what `python -m bench.gate.proof` counts, with fewer restarts."""

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from bench import hardware
from bench.errors import RunError
from bench.gate import config, proof
from bench.gate.proof import Fault
from bench.gate.run import Question, Result, run


def gate(folder: Path, fault: Fault) -> Result:
    proof.make_repository(folder, fault)
    gates = proof.small(config.read(config.DEFAULT))
    policy = gates.policy.model_copy(update={"restarts": (12,)})
    gates = gates.model_copy(update={"policy": policy})
    return run(Question("base", "head", gates, folder / "journal.jsonl", repository=folder))


@pytest.mark.slow
def test_half_a_block_more_is_seen(tmp_path: Path) -> None:
    """The latency of a loaded machine may leave it open, but must not pass it; the FLOPs accuse it anywhere."""
    result = gate(tmp_path, Fault.SLOWER)
    found = {finding.check: finding for finding in result.findings}
    assert result.verdict == "FAIL", result.findings
    assert found["latency"].verdict in ("FAIL", "INCONCLUSIVE")
    assert found["flops"].verdict == "FAIL"
    assert found["output"].verdict == "PASS"


@pytest.mark.slow
def test_five_per_cent_of_peak_bytes_more_fail(tmp_path: Path) -> None:
    result = gate(tmp_path, Fault.LARGER)
    found = {finding.check: finding for finding in result.findings}
    assert found["peak_tensor_bytes"].verdict == "FAIL", result.findings
    assert found["peak_tensor_bytes"].change.startswith("+5.0")
    assert found["output"].verdict == found["flops"].verdict == "PASS"


@pytest.mark.parametrize("fault", [Fault.SLOWER, Fault.LARGER])
def test_the_faults_fit_into_the_transformer(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (hardware.ROOT / "magic141" / "transformer.py").read_text(encoding="utf-8")
    compile(proof.inject(text, fault), "transformer.py", "exec")
    monkeypatch.setitem(proof.EDITS, fault, ("not there", ""))
    with pytest.raises(RunError, match="stands 0 times"):
        proof.inject(text, fault)


def script(monkeypatch: pytest.MonkeyPatch, *results: dict[str, Any]) -> list[Path]:
    """Gates that give these results instead of measuring; returns where they were asked for."""
    asked: list[Path] = []

    def measured(fault: Fault, gates: Any, repository: Path, path: Path) -> dict[str, Any]:
        asked.append(path)
        return results[len(asked) - 1]

    monkeypatch.setattr(proof, "_gate", measured)
    monkeypatch.setattr(proof, "make_repository", lambda path, fault: None)
    return asked


def result(verdict: str, seconds: float = 40.0, *findings: dict[str, str]) -> dict[str, Any]:
    return {"verdict": verdict, "seconds": seconds, "findings": list(findings)}


def prove(fault: str, gates: int, out: Path) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(proof.prove)
    done = CliRunner().invoke(app, [fault, "--gates", str(gates), "--out", str(out)])
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("second", "code"),
    [("PASS", 0), ("INCONCLUSIVE", 0), ("FAIL", 1), ("INVALID", 1)],
)
def test_equal_trees_may_pass_or_leave_it_open(
    second: str, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script(monkeypatch, result("PASS"), result(second))
    assert prove("aa", 2, tmp_path)[0] == code


def test_a_gate_that_takes_too_long_is_no_proof(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script(monkeypatch, result("PASS", 89), result("PASS", 91))
    code, said = prove("aa", 2, tmp_path)
    assert (code, said.splitlines()[-1]) == (
        1,
        "latency: {'PASS': 2}; seconds 89 to 91, median 90, 1 of 2 above 90",
    )


def test_a_fault_must_fail_its_own_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    caught = {"cell": "denoising step", "check": "latency", "verdict": "FAIL", "change": "x 1.1"}
    missed = caught | {"check": "flops"}
    script(monkeypatch, result("FAIL", 30, caught))
    assert prove("slower", 1, tmp_path)[0] == 0
    script(monkeypatch, result("FAIL", 30, missed))
    code, said = prove("slower", 1, tmp_path)
    assert code == 1
    assert "{'INVALID': 1}" in said


def test_what_another_gates_file_gave_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = script(monkeypatch, result("PASS"), result("PASS"))
    prove("aa", 1, tmp_path)
    other = config.DEFAULT.read_text("utf-8").replace("relative: 0.03", "relative: 0.04")
    (tmp_path / "other.yaml").write_text(other, "utf-8")
    app = typer.Typer()
    app.command()(proof.prove)
    CliRunner().invoke(
        app, ["aa", "--gates", "1", "--out", str(tmp_path), "--file", str(tmp_path / "other.yaml")]
    )
    assert asked[0].name == asked[1].name
    assert asked[0] != asked[1]
