"""Suites of the scripted system, small enough that a run of them takes a second or two."""

import datetime
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import contamination
from bench.records import NOT_MEASURABLE, Memory, Record, Timing

HEAD = """
prompts: {texts: [a red circle, a blue square, a green star]}
scorer: bench.baselines.fake:SCORER
metrics: [brightness, noise]
clips: 1
repeats: 3
extra_repeats: 0
time_limit: 20
"""


@pytest.fixture
def suite_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a suite file: systems as YAML, and lines that replace those of the common head."""

    def write(systems: str, name: str = "suite", head: str = HEAD) -> Path:
        path = tmp_path / f"{name}.yaml"
        body = textwrap.indent(textwrap.dedent(systems).strip(), "  ")
        path.write_text(f"name: {name}\n{head}\nsystems:\n{body}\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else runs while this process times something, whatever the real machine does."""
    monkeypatch.setattr(
        contamination, "read", lambda device: contamination.Reading(wall=time.perf_counter(), busy=0, own=0)
    )


TIMING = Timing(median=0.2, low=0.1, high=0.3, n=3, samples=(0.1, 0.2, 0.3))
MEMORY = Memory(
    tensors=NOT_MEASURABLE,
    resident=5,
    cuda_allocated=NOT_MEASURABLE,
    cuda_reserved=NOT_MEASURABLE,
    nvml_process=NOT_MEASURABLE,
)


def _make(cell: str = "c0", **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "cell": cell,
        "fingerprint": "f",
        "suite": "s",
        "system": "x",
        "outcome": "ok",
        "stages": {"end to end": TIMING},
        "real_time_factor": TIMING,
        "memory": MEMORY,
        "command": "python -m bench run s.yaml",
        "started": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        "seconds": 1.0,
    }
    return Record(**fields | changes)


@pytest.fixture(scope="session")
def make() -> Callable[..., Record]:
    """`make(cell, **fields)`: a record that is ok unless `fields` say otherwise."""
    return _make
