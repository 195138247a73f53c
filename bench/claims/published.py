"""What is committed of earlier runs: answers that a new store goes on from.

`answers.jsonl` grows by `python -m bench claims --publish`, so that a run of hours can be shared among machines and
days. Answers are bound to the weights, the training commands and the scoring that they rest on: of others they say
nothing. What stands in code and not in a command, as a learning rate does, binds them through `bench.trials.PROTOCOL`,
which whoever changes it raises. `claims.json` is the table that they make, for reports.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from bench.errors import RunError
from bench.records import CLAIMS, PUBLISHED_CLAIMS, ClaimsTable, Frozen, write_atomically
from bench.trials import Trial

FOLDER = PUBLISHED_CLAIMS.parent
ANSWERS = "answers.jsonl"


class Done(Frozen):
    """An item that is done. `key`: the item and the weights that it rests on."""

    key: str
    name: str
    seconds: float
    trial: Trial | None = None


REMEDY = (
    "take the committed file again (`git checkout -- bench/claims/published`), or leave it out with --afresh"
)


def answers(folder: Path = FOLDER) -> dict[str, Done]:
    """Committed answers by key. Raises RunError where they cannot be read."""
    path = folder / ANSWERS
    # Unlike `jsonl.read` it repairs nothing: this file is under version control.
    lines = path.read_bytes().splitlines() if path.exists() else []
    return {line.key: line for line in parsed(lines, path, REMEDY)}


def publish(done: Iterable[Done], folder: Path = FOLDER) -> int:
    """Put the trials among `done` into the committed file, in the place of what it says of them; returns how many it
    did not have so. A training is no answer: its weights stay behind.
    """
    known = answers(folder)
    new = {line.key: line for line in done if line.trial is not None and known.get(line.key) != line}
    if new:
        lines = (line.model_dump_json(exclude_defaults=True) + "\n" for line in (known | new).values())
        write_atomically(folder / ANSWERS, "".join(lines))
    return len(new)


def publish_table(table: ClaimsTable, folder: Path = FOLDER) -> None:
    """What reports show where nothing has been run."""
    write_atomically(folder / CLAIMS, table.model_dump_json(indent=1, exclude_defaults=True) + "\n")


def parsed(lines: Iterable[bytes], path: Path, remedy: str) -> list[Done]:
    """The lines of `path`. Raises RunError, with the remedy, where one is none."""
    try:
        return [Done.model_validate_json(line) for line in lines]
    except ValidationError as error:
        raise RunError(f"{path} cannot be read: {error}; {remedy}") from error
