"""Real trees with real faults in them: what `python -m bench.gate.proof` counts, with fewer restarts."""

from pathlib import Path

import pytest

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
