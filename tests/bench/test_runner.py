import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rich.console import Console

from bench import folders, runner
from bench.command import Command
from bench.errors import RunError, SuiteError
from bench.records import Manifest, Record, Store, latest, read_samples
from bench.suite import read

ROOT = Path(__file__).parents[2]
SuiteFile = Callable[..., Path]

STEADY = """
steady:
  adapter: bench.baselines.fake:Fake
  knobs: {latency: 0.005}
  axes: {num_inference_steps: [1, 2, 4, 8]}
"""

FAILING = """
failing:
  adapter: bench.baselines.fake:Fake
  design: list
  points:
    - {outcome: oom, stage: denoise}
    - {outcome: unsupported}
    - {outcome: weights-missing}
    - {outcome: invalid}
    - {outcome: crashed, stage: vae decode}
    - {outcome: exit, stage: text encode}
    - {outcome: killed, stage: denoise}
    - {outcome: timeout, stage: denoise}
    - {outcome: ok}
"""


def drive(suite: Path | None, out: Path, resume: str | None = None, only: tuple[str, ...] = ()) -> Path:
    command = Command.make(suite, resume, out, only, report=False)
    command.execute(Console(file=open(os.devnull, "w")), "python -m bench run …")  # noqa: SIM115, PTH123
    return folders.locate("latest", out)


def records(run: Path) -> dict[str, Record]:
    return latest(Store(run).records())


def answers(run: Path) -> dict[str, object]:
    """What must not depend on when a run was interrupted."""
    return {
        cell: (record.outcome, record.message, record.scores, record.samples, record.clips)
        for cell, record in records(run).items()
    }


def test_every_outcome_is_a_row(tmp_path: Path, suite_file: SuiteFile) -> None:
    head = """
prompts: {texts: [a red circle]}
scorer: bench.baselines.fake:SCORER
metrics: [brightness]
repeats: 3
extra_repeats: 0
time_limit: 3
"""
    run = drive(suite_file(FAILING, head=head), tmp_path / "out")
    found = {record.knobs["outcome"]: record for record in records(run).values()}
    assert {script: record.outcome for script, record in found.items()} == {
        "oom": "oom",
        "unsupported": "unsupported",
        "weights-missing": "weights-missing",
        "invalid": "invalid",
        "crashed": "crashed",
        "exit": "crashed",
        "killed": "crashed",
        "timeout": "timeout",
        "ok": "ok",
    }
    assert found["oom"].stage_reached == "first: denoise"
    assert found["crashed"].stage_reached == "first: vae decode"
    assert found["killed"].stage_reached == "first: denoise"
    assert found["timeout"].stage_reached == "first: denoise"
    assert found["unsupported"].stage_reached == "load"
    assert found["killed"].message == "killed by SIGKILL"
    assert found["exit"].message == "exited with code 3 and without a record"
    assert found["crashed"].message == "RuntimeError: scripted"
    assert "3 s" in found["timeout"].message
    assert all(record.seconds > 0 and record.command for record in found.values())
    assert found["oom"].cold_start.load is not None or found["oom"].cold_start.imports is not None
    log = (run / "logs" / f"{found['crashed'].cell}.txt").read_text()
    assert "Traceback" in log


def test_an_ok_record_is_complete(tmp_path: Path, suite_file: SuiteFile) -> None:
    steady = STEADY.replace("latency: 0.005", "latency: 0.005, memory: 32_000_000")
    run = drive(suite_file(steady), tmp_path / "out", only=("num_inference_steps=4",))
    (record,) = records(run).values()
    assert record.outcome == "ok"
    assert len(record.contamination) == 3  # this suite replaces none
    kept = sum(not sample.reasons for sample in record.contamination) or 3
    assert {name: timing.n for name, timing in record.stages.items()} == {
        "text encode": kept,
        "denoise": 4 * kept,
        "vae decode": kept,
        "file encode": kept,
        "end to end": kept,
    }
    assert record.stages["denoise"].median >= 0.005
    whole = record.stages["end to end"]
    assert whole.median >= 4 * 0.005
    assert record.real_time_factor is not None
    assert record.real_time_factor.median == pytest.approx(whole.median / (5 / 16))
    assert record.memory is not None
    # What the script holds, and its scratch. Pages that the imports left free take a megabyte of it on newer Pythons.
    assert int(record.memory.resident) > 60_000_000
    assert record.memory.tensors == record.memory.cuda_allocated == "not measurable"
    cold = record.cold_start
    assert None not in (cold.imports, cold.spawn, cold.load, cold.first)
    assert cold.compile is not None
    assert all(sample.foreign is not None for sample in record.contamination)
    assert record.energy_joules is None  # there is no counter on a CPU
    assert record.empty_region_seconds is not None
    rows = list(read_samples(run, record))
    assert [row["prompt"] for row in rows] == ["a red circle", "a blue square", "a green star"]
    mean = sum(row["brightness"] for row in rows) / 3
    assert record.scores["brightness"].value == pytest.approx(mean)
    assert [clip.role for clip in record.clips] == ["fixed", "worst"]
    assert all((run / clip.path).stat().st_size > 0 for clip in record.clips)


def test_an_exam_of_the_scores_is_recorded_beside_the_cells(tmp_path: Path, suite_file: SuiteFile) -> None:
    head = """
prompts: {texts: [a red circle]}
scorer: bench.baselines.fake:SCORER
metrics: [noise]
exam: 16
"""
    run = drive(suite_file(STEADY, head=head), tmp_path / "out", only=("exam of the scores",))
    (record,) = records(run).values()
    assert (record.kind, record.outcome, record.stages) == ("exam", "ok", {})
    verdicts = {row["score"]: row["verdict"] for row in read_samples(run, record)}
    assert verdicts == {"noise": "sees", "brightness": "blind"}


def test_the_run_says_what_it_took(tmp_path: Path, suite_file: SuiteFile) -> None:
    run = drive(suite_file(STEADY), tmp_path / "out", only=("num_inference_steps=1", "num_inference_steps=2"))
    manifest = Manifest.read(run)
    assert [planned.cell for planned in manifest.plan] == list(records(run))
    assert manifest.predicted.cells == 2
    assert manifest.measured is not None
    assert manifest.measured.seconds >= sum(record.seconds for record in records(run).values())
    assert manifest.first_clip is not None
    assert (run / manifest.first_clip.path).exists()
    assert manifest.finished is not None
    assert not (run / ".work").exists()
    assert (tmp_path / "out" / "latest").read_text() == f"{run.name}\n"
    assert f'url={run.name}/report.html"' in (tmp_path / "out" / "latest.html").read_text()
    # The next plan knows what this run took.
    again = Command.make(
        tmp_path / "suite.yaml", None, tmp_path / "out", ["num_inference_steps=1"], report=False
    )
    (seconds,) = [b.seconds for b in again.budgets]
    assert seconds == records(run)[again.cells[0].id].seconds


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A suite file and a run of it that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    suite = folder / "suite.yaml"
    head = "prompts: {texts: [a red circle, a blue square]}\nscorer: bench.baselines.fake:SCORER\n"
    rest = "metrics: [brightness, noise]\nclips: 1\nrepeats: 3\nextra_repeats: 0\n"
    systems = "".join(f"  {line}\n" for line in STEADY.strip().splitlines())
    suite.write_text(f"name: suite\n{head}{rest}systems:\n{systems}", encoding="utf-8")
    return suite, drive(suite, folder / "out")


@settings(
    max_examples=5,
    deadline=None,
    phases=[Phase.generate],
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    finished=st.integers(0, 3), delay=st.floats(0, 0.6), by=st.sampled_from([signal.SIGKILL, signal.SIGINT])
)
def test_killed_at_any_moment_only_the_cell_in_flight_runs_again(
    uninterrupted: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
    finished: int,
    delay: float,
    by: signal.Signals,
) -> None:
    suite, whole = uninterrupted
    out = tmp_path_factory.mktemp("out")
    arguments = [sys.executable, "-m", "bench", "run", str(suite), "--out", str(out), "--no-report"]
    driver = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while driver.poll() is None:
        lines = sum(path.read_bytes().count(b"\n") for path in out.glob("*/records.jsonl"))
        if lines >= finished and any(out.glob("*/run.json")):
            break
        time.sleep(0.005)
    time.sleep(delay)
    driver.send_signal(by)
    driver.wait()

    (run,) = [path.parent for path in out.glob("*/run.json")]
    store = run / "records.jsonl"
    before = store.read_bytes() if store.exists() else b""
    kept = before[: before.rfind(b"\n") + 1]
    drive(None, out, resume=str(run))

    after = store.read_bytes()
    assert after.startswith(kept)  # nothing that was finished is measured again …
    assert len(after.splitlines()) == len(records(run)) == 4  # … and nothing twice
    assert answers(run) == answers(whole)
    assert not (run / ".work").exists()


def test_a_torn_record_runs_again(tmp_path: Path, suite_file: SuiteFile) -> None:
    run = drive(suite_file(STEADY), tmp_path / "out", only=("num_inference_steps=1", "num_inference_steps=2"))
    whole = answers(run)
    store = run / "records.jsonl"
    first, second = store.read_bytes().splitlines(keepends=True)
    store.write_bytes(first + second[: random.Random(0).randrange(1, len(second))])
    drive(None, tmp_path / "out", resume="latest")
    assert answers(run) == whole
    assert store.read_bytes().startswith(first)


def test_a_run_is_not_resumed_with_another_suite(tmp_path: Path, suite_file: SuiteFile) -> None:
    path = suite_file(STEADY)
    run = drive(path, tmp_path / "out", only=("num_inference_steps=1",))
    before = (run / "run.json").read_bytes()
    other = tmp_path / "other.yaml"
    other.write_text(path.read_text().replace("name: ", "name: not-", 1))
    with pytest.raises(SuiteError, match="is 'not-.*': resume it without a suite"):
        Command.make(other, str(run), tmp_path / "out", (), report=False)
    assert (run / "run.json").read_bytes() == before


def test_folders_that_cannot_be_looked_into_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    for look in (folders.check_writable, lambda out: folders.locate("latest", out)):
        with pytest.raises(RunError, match="Permission denied.*another folder with --out"):
            look(tmp_path / "out")
    assert folders.history(tmp_path) == {}


def test_a_knob_that_a_system_learned_since_loses_no_cell(tmp_path: Path, suite_file: SuiteFile) -> None:
    run = drive(suite_file(STEADY), tmp_path / "out", only=("num_inference_steps=1",))
    manifest = json.loads((run / "run.json").read_text())
    (planned,) = manifest["plan"]
    asked = Command.make(None, "latest", tmp_path / "out", (), report=False).cells
    del planned["knobs"][next(name for name in planned["knobs"] if name != "num_inference_steps")]
    (run / "run.json").write_text(json.dumps(manifest))
    assert Command.make(None, "latest", tmp_path / "out", (), report=False).cells == asked
    assert len(asked) == 1
    # A cell of which the suite knows nothing any more: all cells run, and none is a hole.
    planned["knobs"]["num_inference_steps"] = 77
    (run / "run.json").write_text(json.dumps(manifest))
    assert len(Command.make(None, "latest", tmp_path / "out", (), report=False).cells) > 1


def test_another_environment_measures_everything_again(
    tmp_path: Path, suite_file: SuiteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = drive(suite_file(STEADY), tmp_path / "out", only=("num_inference_steps=1",))
    monkeypatch.setattr("bench.hardware.source_sha256", lambda: "another tree")
    drive(None, tmp_path / "out", resume="latest")
    first, second = Store(run).records()
    assert first.cell == second.cell
    assert first.fingerprint != second.fingerprint == Manifest.read(run).fingerprint


FLAKY = """
flaky:
  adapter: tests.bench.faulty:Flaky
  knobs: {marker: MARKER}
steady: {adapter: 'bench.baselines.fake:Fake'}
gone: {adapter: 'bench.baselines.fake:Fake', knobs: {outcome: weights-missing}}
"""


def test_a_resumed_run_says_what_failed_and_retries_when_asked(tmp_path: Path, suite_file: SuiteFile) -> None:
    marker = tmp_path / "mended"
    run = drive(suite_file(FLAKY.replace("MARKER", str(marker))), tmp_path / "out")
    assert [record.outcome for record in records(run).values()] == ["crashed", "ok", "weights-missing"]
    assert len(list((run / "logs").iterdir())) == 2
    again = Command.make(None, str(run), tmp_path / "out", (), report=False)
    assert len(again.done) == 3
    assert "of these 1 failed (1 crashed): --retry runs them again" in again.summary()
    retry = Command.make(None, str(run), tmp_path / "out", (), report=False, retry=True)
    assert retry.predicted.cells == 1
    assert "failed" not in retry.summary()
    marker.touch()
    retry.execute(Console(file=open(os.devnull, "w")), "python -m bench run …")  # noqa: SIM115, PTH123
    assert [record.outcome for record in records(run).values()] == ["ok", "ok", "weights-missing"]
    assert len(Store(run).records()) == 4  # the other cells were left alone
    assert len(list((run / "logs").iterdir())) == 1  # the log of a failure that is mended goes


@pytest.mark.parametrize("steps", ["8", "4, 8"])
def test_what_could_not_be_asked_is_asked_when_it_can(
    tmp_path: Path, suite_file: SuiteFile, steps: str
) -> None:
    knobs = f"{{adapter: 'tests.bench.faulty:Lacking', knobs: {{marker: '{tmp_path / 'there'}'}}"
    suite = suite_file(f"lacking: {knobs}, axes: {{num_inference_steps: [{steps}]}}}}")
    run = drive(suite, tmp_path / "out")
    outcomes = [record.outcome for record in records(run).values()]
    assert outcomes == ["ok"] * (len(outcomes) - 1) + ["unsupported"]
    assert (Manifest.read(run).first_clip is None) == (steps == "8")  # what is refused is not tried first
    (tmp_path / "there").touch()
    drive(None, tmp_path / "out", resume="latest")
    found = records(run).values()
    assert [record.outcome for record in found] == ["ok"] * len(outcomes)
    assert [str(record.knobs["num_inference_steps"]) for record in found] == steps.split(", ")


def test_the_scorer_is_imported_before_any_memory_is_counted(suite_file: SuiteFile) -> None:
    suite = read(suite_file("fake: {adapter: 'bench.baselines.fake:Fake', scorer: 'tests.bench.faulty:NAN'}"))
    assert "tests.bench.faulty" in runner.imports(suite, report=False)


def test_a_retry_needs_a_run(tmp_path: Path, suite_file: SuiteFile) -> None:
    with pytest.raises(RunError, match="name the run with --resume RUN"):
        Command.make(suite_file(STEADY), None, tmp_path / "out", (), report=False, retry=True)


def test_other_code_of_an_adapter_outside_runs_again_and_no_other_cell(
    tmp_path: Path, suite_file: SuiteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "their_adapter.py"
    module.write_text("from bench.baselines.fake import Fake\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    systems = "theirs: {adapter: 'their_adapter:Fake'}\nours: {adapter: 'bench.baselines.fake:Fake'}"
    run = drive(suite_file(systems), tmp_path / "out")
    assert [record.sources_sha256 is None for record in records(run).values()] == [False, True]
    module.write_text("from bench.baselines.fake import Fake  # mended\n")
    again = Command.make(None, str(run), tmp_path / "out", (), report=False)
    assert [cell.system for cell in again.cells if cell.id not in again.done] == ["theirs"]
    assert "the code behind theirs has changed since: these cells run again" in again.summary()


def test_edited_prompts_are_another_run(tmp_path: Path, suite_file: SuiteFile) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na blue square\n")
    head = (
        f"prompts: {{file: '{prompts}'}}\nscorer: bench.baselines.fake:SCORER\nmetrics: [noise]\nrepeats: 1\n"
    )
    run = drive(suite_file(STEADY, head=head), tmp_path / "out", only=("num_inference_steps=1",))
    before = (run / "run.json").read_bytes()
    prompts.write_text("a red circle\na green star\n")
    with pytest.raises(
        RunError, match="the prompts of steady .file prompts.txt. are not those that it began with"
    ):
        Command.make(None, str(run), tmp_path / "out", (), report=False)
    # Also where a run of before did not write down which prompts it asked.
    manifest = json.loads(before)
    for planned in manifest["plan"]:
        del planned["prompts_sha256"]
    (run / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="none of its 1 cells is asked any more"):
        Command.make(None, str(run), tmp_path / "out", (), report=False)
    (run / "run.json").write_bytes(before)
    prompts.write_text("a red circle\na blue square\n")
    assert len(Command.make(None, str(run), tmp_path / "out", (), report=False).done) == 1


def test_a_run_has_one_driver(tmp_path: Path) -> None:
    refused = pytest.raises(RunError, match="in use by another bench")
    with folders.exclusive(tmp_path), refused, folders.exclusive(tmp_path):
        pass
    with folders.exclusive(tmp_path):
        pass


def test_a_report_that_fails_loses_nothing(
    tmp_path: Path, suite_file: SuiteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "build_report", broken_report)
    command = Command.make(suite_file(STEADY), None, tmp_path / "out", ["num_inference_steps=1"], report=True)
    with (tmp_path / "log").open("w") as log:
        assert command.execute(Console(file=log, width=200), "python -m bench run …") == 0
    assert "the report was not rebuilt" in (tmp_path / "log").read_text()
    assert "ValueError: no ink" in (tmp_path / "log").read_text()
    (record,) = records(folders.locate("latest", tmp_path / "out")).values()
    assert record.outcome == "ok"


def broken_report(*_: object) -> None:
    raise ValueError("no ink")
