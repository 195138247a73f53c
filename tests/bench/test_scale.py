import sys
from pathlib import Path

import pytest

from bench import scale, shards
from bench.errors import RunError
from bench.records import Store, latest
from tests.bench.test_cli import bench
from tests.bench.test_shards import STEADY, SuiteFile, answers, drive


def test_without_ray_the_message_names_the_extra(
    tmp_path: Path, suite_file: SuiteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code, said = bench("run", suite_file(STEADY), "--out", tmp_path / "out", "--ray", "local")
    assert code == 2
    assert "'.[ray]'" in said
    assert not (tmp_path / "out").exists()


def test_a_timed_cell_claims_its_node(suite_file: SuiteFile) -> None:
    from types import SimpleNamespace

    node = {"Resources": {"CPU": 16.0, "GPU": 2.0}}
    timed = SimpleNamespace(cell=SimpleNamespace(kind="cell"), threads=4)
    exam = SimpleNamespace(cell=SimpleNamespace(kind="exam"), threads=4)
    assert scale.request(timed, node) == {"num_cpus": 16, "num_gpus": 2}  # type: ignore[arg-type]
    assert scale.request(exam, node) == {"num_cpus": 4, "num_gpus": 1}  # type: ignore[arg-type]
    assert scale.request(exam, {"Resources": {"CPU": 2.0}}) == {"num_cpus": 2, "num_gpus": 0}  # type: ignore[arg-type]


@pytest.mark.slow
def test_serial_sharded_and_ray_runs_answer_alike(tmp_path: Path, suite_file: SuiteFile) -> None:
    pytest.importorskip("ray")
    systems = (
        STEADY
        + """
failing:
  adapter: bench.baselines.fake:Fake
  design: list
  points:
    - {outcome: crashed, stage: vae decode}
    - {outcome: killed, stage: denoise}
"""
    )
    suite = suite_file(systems)
    serial = drive(suite, tmp_path / "serial")
    parts = [drive(suite, tmp_path / f"shard{n}", shard=f"{n}/2") for n in (1, 2)]
    merged = shards.merge(parts, tmp_path / "merged", "…").run
    on_ray = drive(suite, tmp_path / "ray", ray="local:2")
    assert len(answers(serial)) == 7
    assert answers(serial) == answers(merged) == answers(on_ray)
    for record in latest(Store(on_ray).records()).values():
        for path in (record.samples.path if record.samples else "", *(clip.path for clip in record.clips)):
            if path:
                assert (on_ray / path).read_bytes() == (serial / path).read_bytes()
    assert not (on_ray / ".work").exists()


@pytest.mark.slow
def test_a_lost_worker_is_tried_again_then_crashed(tmp_path: Path, suite_file: SuiteFile) -> None:
    pytest.importorskip("ray")
    systems = f"""
reference: {{adapter: "bench.baselines.fake:Fake", role: system}}
faulty:
  adapter: tests.bench.faulty:LosesItsWorker
  role: reference
  design: list
  points:
    - {{marker: {tmp_path}/once, times: 1}}
    - {{marker: {tmp_path}/always, times: 99}}
"""
    run = drive(suite_file(systems), tmp_path / "out", ray="local:2")
    found = {r.knobs.get("times"): r for r in latest(Store(run).records()).values()}
    assert {times: record.outcome for times, record in found.items()} == {None: "ok", 1: "ok", 99: "crashed"}
    assert "attempt 2 of 2" in found[99].message
    assert (tmp_path / "always").read_text().count("\n") == scale.ATTEMPTS


@pytest.mark.slow
def test_no_cluster_is_a_typed_error(tmp_path: Path, suite_file: SuiteFile) -> None:
    pytest.importorskip("ray")
    with pytest.raises(RunError, match="no cluster there"):
        drive(suite_file(STEADY), tmp_path / "out", ray="127.0.0.1:1")
