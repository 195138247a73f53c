import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.records import (
    NOT_MEASURABLE,
    ClaimRow,
    Manifest,
    Memory,
    Peak,
    Record,
    RecordError,
    Score,
    Store,
    Timing,
    digest,
    latest,
    read_samples,
    write_atomically,
    write_samples,
)

Make = Callable[..., Record]


def test_a_record_survives_the_store(tmp_path: Path, make: Make) -> None:
    store = Store(tmp_path)
    record = make(scores={"m": Score(value=0.1 + 0.2, low=0, high=1, n=3, protocol="p", better="higher")})
    store.append(record)
    assert store.records() == [record]


@pytest.mark.parametrize("missing", ["stages", "real_time_factor", "memory"])
def test_what_was_not_measured_is_never_ok(missing: str, make: Make) -> None:
    with pytest.raises(ValidationError, match="cannot have outcome 'ok'"):
        make(**{missing: {} if missing == "stages" else None})


def test_zero_is_no_measurement(make: Make) -> None:
    with pytest.raises(ValidationError):
        Timing(median=0, n=1)
    with pytest.raises(ValidationError):
        Memory.model_validate(make().memory.model_dump() | {"cuda_allocated": 0})


def test_a_failure_needs_a_message(make: Make) -> None:
    with pytest.raises(ValidationError, match="needs a message"):
        make(outcome="crashed")


@pytest.mark.parametrize(
    "changes",
    [
        {"value": float("nan")},
        {"value": None},
        {"better": "target"},
        {"target": 1.0},
        {"n": 0},
        {"protocol": ""},
    ],
)
def test_scores_that_say_nothing_are_refused(changes: dict[str, Any]) -> None:
    fields = {"value": 1.0, "low": 0.0, "high": 2.0, "n": 3, "protocol": "p", "better": "higher"}
    Score.model_validate(fields)
    with pytest.raises(ValidationError):
        Score.model_validate(fields | changes)


@settings(max_examples=50, deadline=None)
@given(cut=st.integers(1, 10_000), count=st.integers(1, 3))
def test_a_torn_last_line_is_cut_and_nothing_else(
    tmp_path_factory: Any, cut: int, count: int, make: Make
) -> None:
    run = tmp_path_factory.mktemp("run")
    store = Store(run)
    for number in range(count):
        store.append(make(f"c{number}"))
    whole = store.path.read_bytes()
    store.path.write_bytes(whole[: -min(cut, len(whole))])
    kept = store.path.read_bytes().count(b"\n")
    torn = not (store.path.read_bytes() == b"" or store.path.read_bytes().endswith(b"\n"))

    assert len(store.records()) == kept  # reading leaves the file alone …
    assert store.repair() == torn  # … opening for writing cuts it …
    assert store.path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:kept])
    store.append(make("after"))
    assert [record.cell for record in store.records()] == [f"c{i}" for i in range(kept)] + ["after"]


def test_a_broken_line_elsewhere_is_named(tmp_path: Path, make: Make) -> None:
    store = Store(tmp_path)
    for number in range(3):
        store.append(make(f"c{number}"))
    lines = store.path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][:20] + b"\n"
    store.path.write_bytes(b"".join(lines))
    with pytest.raises(RecordError, match=r"records\.jsonl:2 is no record"):
        store.records()


@pytest.mark.parametrize("line", ["[]", "3", '{"schema_version": 99}', "{}"])
def test_foreign_lines_are_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "records.jsonl").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(RecordError, match=r"records\.jsonl:1"):
        Store(tmp_path).records()


def test_the_last_record_of_a_cell_counts(make: Make) -> None:
    first, other, second = make("a", seconds=1), make("b"), make("a", seconds=2)
    assert latest([first, other, second]) == {"a": second, "b": other}


def test_samples_round_trip_exactly_and_are_sealed(tmp_path: Path, make: Make) -> None:
    rows = [
        {"index": 0, "prompt": "a\u2028b\nc", "seed": 1, "m": 0.1 + 0.2},
        {"index": 1, "prompt": "é", "seed": 2, "m": None},
    ]
    record = make(samples=write_samples(tmp_path, "c0", rows))
    assert list(read_samples(tmp_path, record)) == rows
    path = tmp_path / "samples" / "c0.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"seed": 1', b'"seed": 3'))
    with pytest.raises(RecordError, match="sha256 differs"):
        list(read_samples(tmp_path, record))
    path.unlink()
    with pytest.raises(RecordError, match="cannot be read"):
        list(read_samples(tmp_path, record))


def test_samples_refuse_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_samples(tmp_path, "c0", [{"m": float("nan")}])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    write_atomically(path, "old")

    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]
    assert path.read_text() == "old"


def test_a_folder_without_manifest_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is no run"):
        Manifest.read(tmp_path)
    (tmp_path / "run.json").write_text('{"schema_version": 7}', encoding="utf-8")
    with pytest.raises(RecordError, match="cannot be read as schema version 1"):
        Manifest.read(tmp_path)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=5)))
def test_a_digest_ignores_the_order_of_keys(data: dict[str, Any]) -> None:
    assert digest(data) == digest(dict(reversed(list(data.items()))))
    assert digest(data) == digest(json.loads(json.dumps(data)))
    assert digest({**data, "one more": 1}) != digest(data)


def test_records_need_no_torch() -> None:
    import subprocess

    code = "import bench.records, bench.suite, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_verdict_needs_a_number():
    with pytest.raises(ValueError, match="needs a value"):
        ClaimRow(id="x", claim="c", paper="p", protocol="p", sample="s", threshold="t", verdict="reproduced")


@pytest.mark.parametrize(
    ("peaks", "found"),
    [
        ((40_000_000, 75_000_000, NOT_MEASURABLE), Peak(40_000_000, "live tensors")),
        ((40_000_000, NOT_MEASURABLE, NOT_MEASURABLE), Peak(40_000_000, "live tensors")),
        ((40, 500_000_000, NOT_MEASURABLE), Peak(500_000_000, "resident")),  # it computes in numpy
        ((200_000, 2_500_000, NOT_MEASURABLE), Peak(200_000, "live tensors")),  # allocators and caches
        ((NOT_MEASURABLE, 500_000_000, NOT_MEASURABLE), Peak(500_000_000, "resident")),
        ((NOT_MEASURABLE, 500_000_000, 7_000_000), Peak(7_000_000, "allocated")),
        ((NOT_MEASURABLE, NOT_MEASURABLE, NOT_MEASURABLE), None),
    ],
)
def test_the_peak_to_compare_by_is_what_the_process_holds(peaks: Any, found: Peak | None) -> None:
    tensors, resident, allocated = peaks
    memory = Memory(
        tensors=tensors,
        resident=resident,
        cuda_allocated=allocated,
        cuda_reserved=NOT_MEASURABLE,
        nvml_process=NOT_MEASURABLE,
    )
    assert memory.peak == found
