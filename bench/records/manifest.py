"""run.json: the manifest of a run."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError

from bench.records.base import SCHEMA_VERSION, Frozen, RecordError, digest, write_atomically
from bench.records.record import Knob


class Environment(Frozen):
    """Where a run took place. `fingerprint` hashes every field that can change a number."""

    source_sha256: str = Field(description="the files of magic141, evals and bench that can change numbers")
    constraints_sha256: str | None
    commit: str | None
    dirty: bool | None
    platform: str
    python: str
    cpu: str
    cores: int
    threads: int
    memory_bytes: int
    gpu: str | None
    versions: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """Hash of the environment. The commit is left out: the source hash says more, and says it exactly."""
        return digest(self.model_dump(mode="json", exclude={"commit", "dirty"}))


class Budget(Frozen):
    cells: int
    seconds: float
    bytes: int


class PlannedCell(Frozen):
    cell: str
    system: str
    knobs: dict[str, Knob]
    seconds: float = Field(ge=0, description="predicted")
    bytes: int = Field(ge=0, description="predicted disk")
    flags: tuple[str, ...] = Field((), description="what its system says of itself beforehand")
    prompts_sha256: str | None = Field(None, description="of the texts that it asks")


class FirstClip(Frozen):
    path: str
    prompt: str
    system: str
    seconds: float
    real_time_factor: float


class Manifest(Frozen):
    """run.json: what a run was asked, where it ran, and predicted against measured budget."""

    schema_version: Literal[1] = 1
    run: str
    suite: str
    suite_path: str = Field("", description="the file that the suite came from")
    question: dict[str, Any] = Field(description="the suite as resolved, every default written out")
    command: str
    started: datetime
    finished: datetime | None = None
    fingerprint: str
    environment: Environment
    plan: tuple[PlannedCell, ...]
    shard: str | None = Field(
        None, description="i/n where this run answers every n-th cell of what was asked"
    )
    asked: tuple[PlannedCell, ...] = Field((), description="of a shard: the cells of all shards")
    predicted: Budget
    measured: Budget | None = None
    first_clip: FirstClip | None = None

    @classmethod
    def read(cls, run: Path) -> Self:
        """Raises `RecordError` where RUN has no readable run.json."""
        path = run / "run.json"
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise RecordError(f"{run} is no run: it has no run.json") from None
        except (ValidationError, UnicodeDecodeError) as error:
            raise RecordError(f"{path} cannot be read as schema version {SCHEMA_VERSION}: {error}") from error

    def write(self, run: Path) -> None:
        write_atomically(run / "run.json", self.model_dump_json(indent=1) + "\n")
