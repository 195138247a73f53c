"""A repository whose `magic141` is a script: commits of it are what gates of the tests compare."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.gate import config
from bench.gate.run import Question, Result, run

ROOT = Path(__file__).parents[3]
SCRIPT = {
    "SECONDS": 0.002,
    "SIGMA": 0.02,
    "RESTART_SIGMA": 0.02,
    "OUTPUT": b"frames",
    "NOISE": 0.1,
    "COUNTERS": {"parameter_bytes": 1000, "flops": 5000, "peak_tensor_bytes": 2000, "aten_calls": 30},
}
GATES: dict[str, Any] = {
    "cells": {"step": {"workload": "bench.baselines.scripted:Scripted", "pairs": 2}},
    "policy": {"restarts": [12], "relative": 0.2},
    "time_limit": 30,
}


@dataclass
class Repository:
    path: Path

    def write(self, extra: str = "", **changes: Any) -> None:
        lines = [f"{name} = {value!r}" for name, value in (SCRIPT | changes).items()]
        (self.path / "magic141" / "scripted.py").write_text("\n".join([*lines, extra, ""]))

    def commit(self, tag: str, extra: str = "", **changes: Any) -> str:
        """A commit called `tag`, whose script differs from `SCRIPT` by `changes`, with the code `extra`."""
        self.write(extra, **changes)
        return self.commit_files(tag)

    def commit_files(self, tag: str) -> str:
        self.git("add", "-A")
        self.git("commit", "--allow-empty", "-qm", tag)
        self.git("tag", tag)
        return tag

    def git(self, *words: str) -> None:
        who = ("-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *who, *words], cwd=self.path, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """With one commit, `base`."""
    path = tmp_path / "repository"
    (path / "magic141").mkdir(parents=True)
    (path / "magic141" / "__init__.py").write_text("")
    for name in ("errors.py", "stages.py", "precision.py"):
        shutil.copy(ROOT / "magic141" / name, path / "magic141" / name)
    for name in ("constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, path / name)
    made = Repository(path)
    made.git("init", "-q")
    made.commit("base")
    return made


@pytest.fixture
def gate(repository: Repository, tmp_path: Path) -> Callable[..., Result]:
    """`gate(base, head, journal=..., **changes of GATES)`."""

    def ask(
        base: str, head: str, journal: str = "journal.jsonl", say: Any = lambda text: None, **changes: Any
    ) -> Result:
        gates = config.parse(GATES | changes, "test")
        return run(Question(base, head, gates, tmp_path / journal, repository=repository.path, say=say))

    return ask
