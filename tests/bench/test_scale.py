import contextlib
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
    node = {"Resources": {"CPU": 16.0, "GPU": 2.0}}
    timed = SimpleNamespace(cell=SimpleNamespace(kind="cell"), threads=4)
    exam = SimpleNamespace(cell=SimpleNamespace(kind="exam"), threads=4)
    assert scale.request(timed, node) == {"num_cpus": 16, "num_gpus": 2}  # type: ignore[arg-type]
    assert scale.request(exam, node) == {"num_cpus": 4, "num_gpus": 1}  # type: ignore[arg-type]
    assert scale.request(exam, {"Resources": {"CPU": 2.0}}) == {"num_cpus": 2, "num_gpus": 0}  # type: ignore[arg-type]


class Raised(Exception):
    cause = ValueError("a bug of ours")


@dataclass(frozen=True)
class Asked:
    """What `answers` needs of a job."""

    name: str
    work: Path
    fingerprint: str = "here"
    threads: int = 1

    @property
    def cell(self) -> SimpleNamespace:
        return SimpleNamespace(kind="cell", label=self.name)


class OneNode:
    """What `answers` needs of Ray: a cluster of one node, which answers by `said`, an error where that is one."""

    exceptions = SimpleNamespace(RayError=Exception, RayTaskError=Raised)

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *said: object, probe: object = "here") -> None:
        left = list(said)

        def on(ray: object, function: object, node: object, job: object) -> SimpleNamespace:
            probing = function is scale._fingerprint
            return SimpleNamespace(remote=lambda *args: (lambda: probe) if probing else partial(left.pop, 0))

        monkeypatch.setattr(scale, "require", lambda: self)
        monkeypatch.setattr(scale, "_connected", lambda ray, address: contextlib.nullcontext())
        monkeypatch.setattr(scale, "_on", on)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": "n", "Alive": True, "Resources": {"CPU": 2.0}}]

    def wait(self, tasks: list[object]) -> tuple[list[object], list[object]]:
        return tasks[:1], tasks[1:]

    def get(self, task: object, timeout: float | None = None) -> object:
        if isinstance(task, list):
            return [self.get(one) for one in task]
        answer = task()  # type: ignore[operator]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Notes:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def cell_started(self, cell: object) -> None: ...


def collect(*jobs: Asked) -> tuple[list[Any], list[str]]:
    notes = Notes()
    return list(scale.answers("local", jobs, (), notes)), notes.lines  # type: ignore[arg-type]


def test_what_our_own_code_raised_on_a_node_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    OneNode(monkeypatch, Raised(), ("then", 0.5, "ended", {"logs/log": b"text"}))
    found, notes = collect(Asked("first", tmp_path / "1"), Asked("second", tmp_path / "2"))
    assert "a bug of ours" in found[0].ending.log
    assert found[0].job.name == "first"
    assert notes == []
    assert (found[1].ending, found[1].preload) == ("ended", 0.5)
    assert (tmp_path / "2" / "logs" / "log").read_bytes() == b"text"


def test_a_lost_worker_gets_two_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    OneNode(monkeypatch, OSError("gone"), OSError("gone again"))
    found, notes = collect(Asked("only", tmp_path))
    assert [answer.ending.log for answer in found] == ["worker lost (OSError), attempt 2 of 2"]
    assert notes == [f"only: worker lost (OSError), attempt {n} of 2" for n in (1, 2)]


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (TimeoutError(), "did not say within 120 s what environment it has"),
        ("another", "none of the cluster's 1 nodes has the environment of this machine"),
    ],
)
def test_nodes_that_do_not_say_what_they_are_get_no_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probe: object, message: str
) -> None:
    OneNode(monkeypatch, probe=probe)
    with pytest.raises(RunError, match=message):
        collect(Asked("only", tmp_path))


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
