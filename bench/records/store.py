"""records.jsonl, the append-only store of a run, and the samples beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from bench import jsonl
from bench.records.base import SCHEMA_VERSION, RecordError, write_atomically
from bench.records.record import DECIDED, Record, Sidecar


class Store:
    """The append-only records.jsonl of a run. Readers use `records`; only the driver calls `append`."""

    def __init__(self, run: Path) -> None:
        self.path = run / "records.jsonl"

    @classmethod
    def at(cls, path: Path) -> Self:
        """A store in a file of any name, outside a run: baselines of gates."""
        store = cls(path.parent)
        store.path = path
        return store

    def records(self) -> list[Record]:
        """All complete lines. A torn last line (no newline: the writer was killed) is not there yet.

        Raises `RecordError` for a complete line that is no record.
        """
        return [self._parse(number, line) for number, line in enumerate(jsonl.lines(self.path), 1)]

    def repair(self) -> bool:
        """Cuts a torn last line, so that the next append starts a line of its own. True if there was one."""
        return jsonl.cut_torn(self.path)

    def append(self, record: Record) -> None:
        """One write, then fsync: after a return the record survives a kill of this process or the machine.

        Raises `RecordError` where the disk refuses (it is full); the store is then as it was.
        """
        try:
            jsonl.append(self.path, record.model_dump_json())
        except OSError as error:
            raise RecordError(
                f"{self.path} takes no more ({error.strerror}): its records are whole; free some space, then "
                f"--resume {self.path.parent} runs what is left"
            ) from error

    def _parse(self, number: int, line: bytes) -> Record:
        try:
            version = json.loads(line).get("schema_version")
            if version != SCHEMA_VERSION:
                raise RecordError(
                    f"{self.path}:{number} has schema version {version}; this bench reads {SCHEMA_VERSION}"
                )
            return Record.model_validate_json(line)
        except (ValueError, AttributeError) as error:
            raise RecordError(
                f"{self.path}:{number} is no record: {error}. Only the last line can be torn by a kill, so "
                "the file was edited or its disk is damaged: restore it, or delete the line and use --resume"
            ) from error


def latest(records: Iterable[Record]) -> dict[str, Record]:
    """The last record of every cell, in order of first appearance: a cell that ran again replaces itself.

    So does one that could not be asked, for want of weights or of something that its system needs, once it is: it has
    another id then.
    """
    found = {record.cell: record for record in records}
    made = [record for record in found.values() if record.outcome not in DECIDED]
    return {cell: record for cell, record in found.items() if not any(_answers(one, record) for one in made)}


def _answers(later: Record, record: Record) -> bool:
    """Whether `record` only says why the setting of `later` could not be asked then."""
    return (
        record.outcome in DECIDED
        and later.started > record.started
        and later.system == record.system
        and later.prompts == record.prompts
        and record.knobs.items() <= later.knobs.items()
    )


def write_samples(run: Path, cell: str, rows: Sequence[Mapping[str, Any]]) -> Sidecar:
    """Writes samples/CELL.jsonl. Rows of a cell have `index`, `prompt`, `seed`; a missing score is null."""
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    path = run / "samples" / f"{cell}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return Sidecar(path=path.relative_to(run).as_posix(), sha256=sha256, rows=len(rows))


def read_samples(run: Path, record: Record) -> Iterator[dict[str, Any]]:
    """Rows of a record's sidecar. Raises `RecordError` where the file is gone or is not the recorded one."""
    if record.samples is None:
        raise RecordError(f"cell {record.cell} ({record.outcome}) has no samples")
    path = run / record.samples.path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"samples of cell {record.cell} cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != record.samples.sha256:
        raise RecordError(
            f"{path} is not what its record names (sha256 differs): run the cell again with --resume"
        )
    yield from map(json.loads, content.splitlines())
