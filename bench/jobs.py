"""One cell as a job: what a worker is sent, what comes back, and which outcome an exception means."""

from __future__ import annotations

import datetime
import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from bench.cells import Cell
from bench.errors import InvalidOutputError, UnsupportedError
from bench.isolation import Ending
from bench.records import Outcome, Record
from bench.suite import Suite
from magic141.errors import WeightsMissing

RECORD = "record.json"
LONGEST = 2000
"""Characters of a message that a record keeps; the log has all of it."""


@dataclass(frozen=True)
class Job:
    """What a worker is sent. `work` is the folder that it may write to."""

    cell: Cell
    suite: Suite
    fingerprint: str
    threads: int
    command: str
    work: Path

    def record(self, **fields: Any) -> Record:
        """A record of this cell with what is known before it starts."""
        return Record(
            kind=self.cell.kind,
            cell=self.cell.id,
            fingerprint=self.fingerprint,
            adapter=self.cell.adapter,
            sources_sha256=self.cell.sources_sha256,
            suite=self.suite.name,
            system=self.cell.system,
            role=self.cell.role,
            knobs=self.cell.knobs,
            weights_sha256=self.cell.weights_sha256,
            prompts=self.cell.prompts,
            seeds=tuple(self.cell.seeds),
            command=self.command,
            flags=(*self.cell.flags, *fields.pop("flags", ())),
            **fields,
        )


@dataclass(frozen=True)
class Answer:
    """What came of one job, wherever it ran; its files lie in `job.work`."""

    job: Job
    ending: Ending
    started: datetime.datetime
    preload: float


class Display(Protocol):
    """Whoever watches, and what is told to them."""

    def note(self, text: str) -> None: ...

    def cell_started(self, cell: Cell) -> None: ...

    def cell_progress(self, cell: Cell, stage: str, share: float) -> None: ...

    def cell_finished(self, cell: Cell, record: Record) -> None: ...


def outcome_of(error: Exception) -> Outcome:
    """Which outcome an exception means."""
    if isinstance(error, WeightsMissing):
        return "weights-missing"
    if isinstance(error, UnsupportedError):
        return "unsupported"
    if isinstance(error, InvalidOutputError | ValidationError):
        return "invalid"
    return "oom" if is_out_of_memory(error) else "crashed"


ALLOCATORS = ("can't allocate memory", "bad_alloc", "STATUS_ALLOC_FAILED")
"""What the CPU allocator, C++ and CUDA's libraries say in a bare RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Python's, CUDA's and the kernel's, those that arrive as a RuntimeError, and what was raised from them."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in ALLOCATORS)
    return named or refused or said or (error.__cause__ is not None and is_out_of_memory(error.__cause__))


def _printable(text: str) -> str:
    """`text` as a line of JSON can hold it, without the megabytes that some errors quote."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} characters)"


def message_of(error: Exception) -> str:
    """What a record says of it: our own words alone, others' with their type."""
    text = _printable(str(error).strip())
    typed = (WeightsMissing, UnsupportedError, InvalidOutputError)
    return text if isinstance(error, typed) and text else f"{type(error).__name__}: {text}".rstrip(": ")
