"""What a gate has measured so far, a JSON line each: an interrupted one loses at most the restart in flight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench import jsonl
from bench.errors import RunError
from bench.gate_policy import Restart

_FIRST = b'{"header"'
"""What a journal begins with, or a part of it where the first line was torn."""


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Header(_Line):
    """The question of a gate. Another one cannot go on from its journal."""

    gates: str = Field(description="hash of what is measured and how it is judged")
    base: str = Field(description="hash of the tree and of its constraints")
    head: str
    fingerprint: str = Field(description="hash of machine, packages and harness")
    base_records: str = Field("", description="hash of the stored baselines that stand in for base")


class Side(_Line):
    """Counters of one call and the hash of its output."""

    counters: dict[str, int | float | None]
    output: str


class Counted(_Line):
    cell: str
    base: Side
    head: Side


class Blocks(_Line):
    base: tuple[float, ...]
    head: tuple[float, ...]


class Scored(_Line):
    """Scores of both sides as a worker gives them; `same` where the clips are equal, which needs no scores."""

    same: bool
    base: dict[str, Any] = Field(default_factory=dict)
    head: dict[str, Any] = Field(default_factory=dict)


class Entry(_Line):
    """One line: exactly one of its fields is set. `restart` has the cells that were measured in it."""

    header: Header | None = None
    counted: Counted | None = None
    restart: dict[str, Blocks] | None = None
    scored: Scored | None = None


class Journal:
    """Append-only. `entries` is what it held when opened, and what was added since."""

    def __init__(self, path: Path, entries: list[Entry]) -> None:
        self.path, self.entries = path, entries

    @classmethod
    def open(cls, path: Path, header: Header) -> Self:
        """A new journal at `path`, or the one there. Raises RunError where that one asks something else."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            journal = cls(path, [])
            journal.add(Entry(header=header))
            return journal
        with path.open("rb") as file:
            start = file.read(len(_FIRST))
        if not _FIRST.startswith(start):
            raise RunError(f"{path} is no journal of a gate: name another file to start anew")
        try:
            entries = [Entry.model_validate_json(line) for line in jsonl.lines(path)]
        except ValidationError as error:
            raise RunError(
                f"{path} is no journal of a gate: {error}. Name another file to start anew"
            ) from error
        if entries and (found := entries[0].header) != header:
            mine = header.model_dump()
            differs = [name for name in mine if found is None or getattr(found, name) != mine[name]]
            raise RunError(
                f"{path} belongs to another gate: {', '.join(differs)} differ. Its restarts say nothing about this "
                "one; name another file to start anew"
            )
        jsonl.cut_torn(path)  # the restart in flight
        journal = cls(path, entries)
        if not entries:
            journal.add(Entry(header=header))
        return journal

    def add(self, entry: Entry) -> None:
        """Raises ValueError for a number that is not finite: JSON has none, and a gate must not; OSError where the disk
        refuses, and the journal is then as it was.
        """
        jsonl.append(self.path, json.dumps(entry.model_dump(mode="json", exclude_none=True), allow_nan=False))
        self.entries.append(entry)

    @property
    def number_of_restarts(self) -> int:
        return sum(entry.restart is not None for entry in self.entries)

    def restarts(self, cell: str) -> list[Restart]:
        """Those in which the cell was measured, in order."""
        found = [entry.restart[cell] for entry in self.entries if entry.restart and cell in entry.restart]
        return [Restart(blocks.base, blocks.head) for blocks in found]

    def counted(self, cell: str) -> Counted | None:
        return next((one.counted for one in self.entries if one.counted and one.counted.cell == cell), None)

    def scored(self) -> Scored | None:
        return next((entry.scored for entry in self.entries if entry.scored), None)
