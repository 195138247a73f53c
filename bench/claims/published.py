"""What is committed of earlier runs: answers that a new store goes on from, and verdicts whose answers were not kept.

`answers.jsonl` grows by `python -m bench claims --publish`, so that a run of hours can be shared among machines and
days. `verdicts.jsonl` holds rows alone. Both are bound to the weights that they are of: of others they say nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from bench import jsonl
from bench.errors import RunError
from bench.records import ClaimRow, Frozen
from bench.trials import Trial

FOLDER = Path(__file__).parent / "published"
ANSWERS, VERDICTS = "answers.jsonl", "verdicts.jsonl"


class Done(Frozen):
    """An item that is done. `key`: the item and the weights that it rests on."""

    key: str
    name: str
    seconds: float
    trial: Trial | None = None


class Settled(Frozen):
    """A row of the claims table. `basis`: the keys of all items that it rests on, as one digest."""

    basis: str
    row: ClaimRow


def answers(path: Path) -> dict[str, Done]:
    """By key; of a store's or of the committed file. Raises RunError where it cannot be read."""
    try:
        return {line.key: line for line in map(Done.model_validate_json, jsonl.read(path))}
    except ValidationError as error:
        raise RunError(f"{path} cannot be read: {error}; name another folder with --out") from error


def verdicts(folder: Path = FOLDER) -> dict[str, ClaimRow]:
    """Committed rows by their basis."""
    lines = map(Settled.model_validate_json, jsonl.read(folder / VERDICTS))
    return {line.basis: line.row for line in lines}


def publish(done: Iterable[Done], folder: Path = FOLDER) -> int:
    """Add the trials that the committed file lacks; returns how many. A training is none: its weights stay behind."""
    known = answers(folder / ANSWERS)
    new = [line for line in done if line.trial is not None and line.key not in known]
    for line in new:
        jsonl.append(folder / ANSWERS, line.model_dump_json(exclude_defaults=True))
    return len(new)
