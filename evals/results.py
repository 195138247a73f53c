"""What `python -m evals score` writes and `compare` reads: one JSON file, every clip in it, failed ones too."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from dataclasses import field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from evals.protocol import Score
from magic141.errors import InputError

SCHEMA_VERSION = 1
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, config=_STRICT)
class Flag:
    """Why a clip deserves no credit for its scores: the measure that says so, and its threshold."""

    name: str
    evidence: str


@dataclass(frozen=True, slots=True, config=_STRICT)
class ClipResult:
    """One clip. `values` holds finite numbers only; what could not be measured is in `reason` or absent.

    It is all that stays of a clip once it is scored, about 1 kB, and so no model: one of those takes twice that.
    """

    name: str
    outcome: Literal["ok", "failed"]
    reason: str = ""
    prompt: str | None = None
    seed: str | None = None
    frames: int = 0
    height: int = 0
    width: int = 0
    fps: float | None = None
    values: dict[str, float] = field(default_factory=dict)
    flags: tuple[Flag, ...] = ()


class ScoreFile(BaseModel):
    """Scores of a set of clips. `omitted`: metric -> why there is no score of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    command: str = ""
    clips: tuple[ClipResult, ...]
    aggregate: dict[str, Score]
    omitted: dict[str, str] = {}
    warnings: tuple[str, ...] = ()

    @property
    def failed(self) -> list[ClipResult]:
        return [clip for clip in self.clips if clip.outcome == "failed"]


def write(scores: ScoreFile, path: Path, csv_path: Path | None = None) -> None:
    """Write the JSON, and the per-clip table as CSV where asked; each appears whole or not at all."""
    _replace(path, TypeAdapter(ScoreFile).dump_json(scores, indent=1), b"\n")
    if csv_path is not None:
        _replace(csv_path, table(scores).encode())


def table(scores: ScoreFile) -> str:
    """One line a clip, failed ones too; a value that a clip has not is empty."""
    measures = list(dict.fromkeys(name for clip in scores.clips for name in clip.values))
    facts = ["name", "outcome", "reason", "prompt", "seed", "frames", "height", "width", "fps"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*facts, "flags", *measures])
    for clip in scores.clips:
        flags = " ".join(dict.fromkeys(flag.name for flag in clip.flags))
        row = [getattr(clip, fact) for fact in facts]
        writer.writerow([*row, flags, *(clip.values.get(name, "") for name in measures)])
    return text.getvalue()


def read(path: Path) -> ScoreFile:
    """Read what `write` wrote. Raises InputError for a file that is missing or is something else."""
    try:
        return ScoreFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read scores from {str(path)!r}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{str(path)!r} is no score file of schema {SCHEMA_VERSION}: {where}: {first['msg']};"
            " make one with: python -m evals score"
        ) from error


def check_writable(path: Path) -> None:
    """Raise InputError unless a file can be written at `path`; leaves nothing behind."""
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder: name a file in it, such as scores.json")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror}; choose another place") from error


def _replace(path: Path, *parts: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.writelines(parts)
        partial.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror}; choose another place") from error
    finally:
        partial.unlink(missing_ok=True)
