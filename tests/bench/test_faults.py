"""Faults that are really injected into cells: each gives its record, and the sweep goes on."""

import contextlib
import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from markupsafe import escape

from bench import folders, isolation, runner
from bench.errors import RunError
from bench.gate.journal import Blocks, Entry, Header, Journal
from bench.records import Record, RecordError, Store, latest
from tests.bench.faulty import HELD
from tests.bench.test_cli import bench
from tests.bench.test_shards import answers, drive

ROOT = Path(__file__).parents[2]
SuiteFile = Callable[..., Path]

FAULTS = {
    "raise in load": "{fault: raise, stage: load}",
    "raise in text encode": "{fault: raise, stage: text encode}",
    "raise in denoise": "{fault: raise, stage: denoise}",
    "raise in vae decode": "{fault: raise, stage: vae decode}",
    "raise in file encode": "{fault: pace, phase: first}",
    "floats": "{fault: floats, phase: first}",
    "raise in warm-up": "{fault: raise, phase: warm-up}",
    "raise in latency": "{fault: raise, phase: latency}",
    "raise in memory": "{fault: raise, phase: memory}",
    "raise in quality": "{fault: raise, phase: quality}",
    "memory limit": "{fault: allocate, stage: vae decode}",
    "memory limit, wrapped": "{fault: wrapped, phase: quality}",
    "sigkill": "{fault: sigkill, phase: latency}",
    "hang": "{fault: hang, phase: latency}",
    "nan": "{fault: nan, phase: latency}",
    "full disk": "{fault: disk, phase: latency}",
    "full disk, even for the record": "{fault: full, phase: latency}",
    "weights missing": "{outcome: weights-missing}",
    "none": "{fault: none}",
}
HOLDS = {
    name
    for name, point in FAULTS.items()
    if any(word in point for word in ("raise", "alloc", "wrapped", "sigkill", "hang"))
}
"""Those whose fault comes while the system holds `HELD` bytes more."""
HOLDS.remove("raise in load")
HEAD = """
prompts: {texts: [a red circle, a blue square]}
scorer: bench.baselines.fake:SCORER
metrics: [brightness]
repeats: 3
extra_repeats: 0
time_limit: 4
memory_limit: 256MiB
"""


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Record]]:
    """A run folder, and its records by the fault that was injected."""
    folder = tmp_path_factory.mktemp("faults")
    suite = folder / "suite.yaml"
    points = "".join(f"      - {point}\n" for point in FAULTS.values())
    systems = f"  faulty:\n    adapter: tests.bench.faulty:Faulty\n    design: list\n    points:\n{points}"
    suite.write_text(f"name: suite\n{HEAD}\nsystems:\n{systems}")
    run = drive(suite, folder / "out")
    records = latest(Store(run).records())
    return run, dict(zip(FAULTS, records.values(), strict=True))


@pytest.mark.parametrize(
    ("fault", "outcome", "stage", "said"),
    [
        ("raise in load", "crashed", "load", "ValueError: scripted"),
        ("raise in text encode", "crashed", "first: text encode", "ValueError: scripted"),
        ("raise in denoise", "crashed", "first: denoise", "ValueError: scripted"),
        ("raise in vae decode", "crashed", "first: vae decode", "ValueError: scripted"),
        ("raise in file encode", "crashed", "first: file encode", "fps=1000 must lie in 1..240"),
        ("floats", "invalid", "first: end to end", "frames are float32 (1, 5, 16, 16, 3), not uint8"),
        ("raise in warm-up", "crashed", "warm-up: denoise", "ValueError: scripted"),
        ("raise in latency", "crashed", "latency: denoise", "ValueError: scripted"),
        ("raise in memory", "crashed", "memory: denoise", "ValueError: scripted"),
        ("raise in quality", "crashed", "quality: denoise", "ValueError: scripted"),
        ("memory limit", "oom", "first: vae decode", "Unable to allocate"),
        ("memory limit, wrapped", "oom", "quality: denoise", "could not make room"),
        ("sigkill", "crashed", "latency: denoise", "killed by SIGKILL"),
        ("hang", "timeout", "latency: denoise", "stopped at the time limit of 4 s"),
        ("nan", "invalid", "latency", "one flat colour"),
        ("weights missing", "weights-missing", "first: denoise", "weights"),
        ("full disk", "crashed", "latency: file encode", "File too large"),
        ("full disk, even for the record", "crashed", "latency: file encode", "without a record"),
    ],
)
def test_a_fault_gives_its_record(
    faults: tuple[Path, dict[str, Record]], fault: str, outcome: str, stage: str, said: str
) -> None:
    record = faults[1][fault]
    assert (record.outcome, record.stage_reached) == (outcome, stage)
    assert said in record.message
    assert record.seconds > 0
    assert record.samples is None
    if fault in HOLDS:
        # The peak so far, also of a process that could not say it any more.
        assert record.memory is not None
        assert HELD * 0.95 < int(record.memory.resident) < 256 * 2**20


def test_the_sweep_goes_on(faults: tuple[Path, dict[str, Record]]) -> None:
    run, records = faults
    assert records["none"].outcome == "ok"
    assert records["raise in quality"].stages  # what was measured before a failure is kept
    assert {path.name for path in (run / "samples").iterdir()} == {
        f"{record.cell}.jsonl" for record in records.values() if record.outcome == "ok"
    }


def test_the_report_shows_every_row_with_its_reason(faults: tuple[Path, dict[str, Record]]) -> None:
    from reports.build import build

    run, records = faults
    page = build([run], run / "report.html").read_text(encoding="utf-8")
    for record in records.values():
        if record.outcome != "ok":
            assert f'<span class="badge bad">{record.outcome}</span> at {record.stage_reached}: ' in page
            assert str(escape(record.message[:60])) in page
    assert f"{len(records) - 1} cells without a result" in page


@pytest.mark.parametrize(
    ("scorer", "outcome", "said"),
    [("BROKEN", "crashed", "scripted"), ("NAN", "invalid", "a score without a value")],
)
def test_a_scorer_that_fails_is_a_row(
    tmp_path: Path, suite_file: SuiteFile, scorer: str, outcome: str, said: str
) -> None:
    head = HEAD.replace("bench.baselines.fake:SCORER", f"tests.bench.faulty:{scorer}")
    run = drive(suite_file("fake: {adapter: 'bench.baselines.fake:Fake'}", head=head), tmp_path / "out")
    (record,) = Store(run).records()
    assert (record.outcome, record.stage_reached) == (outcome, "score")
    assert said in record.message
    assert record.stages
    assert record.samples is None  # files of a failed cell are not kept, so none is named
    assert not record.clips


@pytest.mark.slow
def test_the_allocator_of_torch_is_oom(tmp_path: Path, suite_file: SuiteFile) -> None:
    head = HEAD.replace("time_limit: 4", "time_limit: 120")
    run = drive(suite_file("torch: {adapter: 'tests.bench.faulty:Torch'}", head=head), tmp_path / "out")
    (record,) = Store(run).records()
    assert (record.outcome, record.stage_reached) == ("oom", "load")
    assert "can't allocate memory" in record.message


@pytest.mark.parametrize("limit", ["0", "-1", "much"])
def test_a_bad_memory_limit_is_refused(tmp_path: Path, suite_file: SuiteFile, limit: str) -> None:
    head = HEAD.replace("256MiB", limit)
    suite = suite_file("fake: {adapter: 'bench.baselines.fake:Fake'}", head=head)
    code, said = bench("run", suite, "--out", tmp_path / "out", "--dry-run")
    assert code == 2
    assert "memory_limit" in said


@pytest.mark.parametrize(
    ("groups", "files", "kills"),
    [
        ("0::/a\n", {"a/memory.events": "low 0\noom 5\noom_kill 2\n"}, 2),
        ("0::/host/a\n", {"memory.events": "oom_kill 3\n"}, 3),  # in a container
        ("4:memory:/a\n0::/\n", {"memory/a/memory.oom_control": "under_oom 0\noom_kill 4\n"}, 4),
        ("4:cpu,memory:/a\n", {"memory/memory.oom_control": "oom_kill 1\n"}, 1),
        ("4:cpu:/a\n", {"memory/a/memory.oom_control": "oom_kill 1\n"}, 0),
        ("0::/a\n", {}, 0),
    ],
)
def test_kills_for_memory_are_counted_by_the_cgroup(
    tmp_path: Path, groups: str, files: dict[str, str], kills: int
) -> None:
    (tmp_path / "cgroup").write_text(groups)
    for name, content in files.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert isolation.memory_kills(tmp_path / "cgroup", tmp_path / "mount") == kills


def test_a_kill_that_the_cgroup_counts_is_oom(
    tmp_path: Path, suite_file: SuiteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = iter(range(100))
    monkeypatch.setattr(isolation, "memory_kills", lambda: next(count))
    systems = "fake: {adapter: 'bench.baselines.fake:Fake', axes: {outcome: [killed, exit]}}"
    run = drive(suite_file(systems, head=HEAD), tmp_path / "out")
    found = {record.knobs["outcome"]: record for record in Store(run).records()}
    assert found["killed"].outcome == "oom"
    assert found["killed"].message == "killed by SIGKILL when the memory limit was hit"
    assert found["exit"].outcome == "crashed"  # somebody else's kill says nothing about an exit


@contextlib.contextmanager
def full_at(size: int) -> Iterator[None]:
    """A disk on which no file grows beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_store_whole(tmp_path: Path, make: Callable[..., Record]) -> None:
    store = Store(tmp_path)
    store.append(make("first"))
    before = store.path.read_bytes()
    with full_at(len(before) + 50), pytest.raises(RecordError, match="takes no more .* free some space"):
        store.append(make("second"))
    assert store.path.read_bytes() == before
    store.append(make("second"))
    assert [record.cell for record in store.records()] == ["first", "second"]


def test_a_full_disk_leaves_the_journal_of_a_gate_readable(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    header = Header(gates="g", base="b", head="h", fingerprint="f")
    journal = Journal.open(path, header)
    before = path.read_bytes()
    restart = Entry(restart={"step": Blocks(base=(0.25,) * 20, head=(0.25,) * 20)})
    with full_at(len(before) + 50), pytest.raises(OSError, match="File too large"):
        journal.add(restart)
    assert path.read_bytes() == before
    assert journal.number_of_restarts == 0
    journal.add(restart)
    assert Journal.open(path, header).entries == journal.entries == [Entry(header=header), restart]


STEADY = "steady: {adapter: 'bench.baselines.fake:Fake', axes: {num_inference_steps: [1, 2, 4]}}"


@pytest.mark.parametrize("where", ["append", "keep"])
def test_a_driver_whose_disk_is_full_stops_and_can_be_resumed(
    tmp_path: Path, suite_file: SuiteFile, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    suite = suite_file(STEADY, head=HEAD)
    calls = []

    def full(original: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            calls.append(arguments)
            if len(calls) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*arguments)

        return call

    with monkeypatch.context() as patch:
        if where == "append":
            patch.setattr("bench.jsonl.os.fsync", full(os.fsync))
        else:
            patch.setattr(runner.Driver, "_keep", full(runner.Driver._keep))
        with pytest.raises((RunError, RecordError), match="No space left on device"):
            drive(suite, tmp_path / "out")
    run = folders.locate("latest", tmp_path / "out")
    assert len(Store(run).records()) == 1
    code, _ = bench("run", "--resume", run, "--no-report")
    assert code == 0
    assert len(Store(run).path.read_bytes().splitlines()) == 3
    assert answers(run) == answers(drive(suite, tmp_path / "whole"))


@pytest.mark.slow
def test_killed_at_twenty_random_moments_and_resumed(tmp_path: Path, suite_file: SuiteFile) -> None:
    systems = """
steady:
  adapter: bench.baselines.fake:Fake
  axes: {num_inference_steps: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], latency: [0.01, 0.02, 0.03]}
failing:
  adapter: bench.baselines.fake:Fake
  axes: {outcome: [crashed, killed, invalid, weights-missing]}
  knobs: {stage: denoise}
"""
    suite = suite_file(systems)
    whole = drive(suite, tmp_path / "whole")
    out, moments, kills = tmp_path / "out", random.Random(6), 0

    def finished() -> int:
        return sum(store.read_bytes().count(b"\n") for store in out.glob("*/records.jsonl"))

    while kills < 20:
        last = next(iter(out.glob("*/run.json")), None)
        words = ["--resume", str(last.parent)] if last else [str(suite), "--out", str(out)]
        arguments = [sys.executable, "-m", "bench", "run", *words, "--no-report"]
        driver = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Some moments fall into start and imports, others among the cells, whatever the speed of the machine.
        more = moments.choice([0, 0, 1, 1, 2])
        wanted = finished() + more
        while driver.poll() is None and finished() < wanted:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.8 if more else 4))
        assert driver.poll() is None, "it ended before it was killed: give it more cells"
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        kills += 1
    code, _ = bench("run", "--resume", next(out.glob("*/run.json")).parent, "--no-report")
    assert code == 0
    (run,) = [path.parent for path in out.glob("*/run.json")]
    assert answers(run) == answers(whole)
    assert len(Store(run).path.read_bytes().splitlines()) == len(answers(whole)) == 34
