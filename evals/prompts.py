"""Which prompt and seed a clip was made from, by its file name; no naming convention is asked for."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from magic141.errors import InputError

NAME_COLUMNS = ("file", "name", "path", "video", "filename")
PROMPT_COLUMNS = ("prompt", "caption", "text")


@dataclass(frozen=True)
class Origin:
    """What a clip was made from. `seed` is kept as written."""

    prompt: str
    seed: str | None = None


def read_prompts(path: Path) -> dict[str, Origin]:
    """File name -> origin, from a CSV with a header or a JSON-lines file.

    The columns are one of `NAME_COLUMNS`, one of `PROMPT_COLUMNS`, and optionally `seed`.

    Raises:
        InputError: unreadable, another format, a column or value missing, or a file named twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read prompts from {str(path)!r}: {error}") from error
    suffix = path.suffix.lower()
    if suffix == ".csv":
        try:
            rows: list[tuple[int, Mapping[str, object]]] = list(
                enumerate(csv.DictReader(io.StringIO(text, newline="")), 2)
            )
        except csv.Error as error:
            raise InputError(
                f"{path.name} is no table ({error}): look for a quotation mark without its partner"
            ) from error
    elif suffix in (".jsonl", ".ndjson"):
        rows = [(number, _json_row(path, number, line)) for number, line in _lines(text)]
    else:
        raise InputError(f"prompts {str(path)!r} must be .csv or .jsonl")
    found: dict[str, Origin] = {}
    for number, row in rows:
        where = f"{path.name}, line {number}"
        name = _normal(_value(row, NAME_COLUMNS, where).replace("\\", "/").removeprefix("./"))
        if name in found:
            raise InputError(f"{where}: {name!r} is named twice; keep one line")
        seed = row.get("seed")
        found[name] = Origin(
            _value(row, PROMPT_COLUMNS, where), None if seed is None or seed == "" else str(seed)
        )
    return found


def match(names: Iterable[str], origins: Mapping[str, Origin]) -> dict[str, Origin]:
    """Clip name -> origin: by the whole name, else by the last part of the path, else by that without its suffix.

    A clip that nothing names, or that two lines could mean, is left out; so is one that shares only a part of its name
    with a line, where that names another clip whole.
    """
    tables: list[dict[str, list[str]]] = [{}, {}, {}]
    for key in origins:
        for table, part in zip(tables, _parts(key), strict=True):
            table.setdefault(part, []).append(key)
    clips = {name: _parts(name) for name in names}
    taken = {key for whole, *_ in clips.values() for key in tables[0].get(whole, [])}
    found = {}
    for name, parts in clips.items():
        hits = [table.get(part, []) for table, part in zip(tables, parts, strict=True)]
        candidates = next((hit for hit in hits if hit), [])
        if len(candidates) == 1 and (hits[0] or candidates[0] not in taken):
            found[name] = origins[candidates[0]]
    return found


def _parts(name: str) -> tuple[str, str, str]:
    whole = _normal(name)
    path = PurePosixPath(whole)
    return whole, path.name, path.stem


def _normal(name: str) -> str:
    """Some file systems take an accent off its letter, and editors put it back on."""
    return unicodedata.normalize("NFC", name)


def _lines(text: str) -> list[tuple[int, str]]:
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _json_row(path: Path, number: int, line: str) -> Mapping[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # beside what is no JSON: numbers of thousands of digits
        said = getattr(error, "msg", error)
        raise InputError(f"{path.name}, line {number} is not JSON that can be read: {said}") from error
    if not isinstance(row, dict):
        raise InputError(f"{path.name}, line {number} must be a JSON object, got {line[:40]!r}")
    return row


def _value(row: Mapping[str, object], columns: tuple[str, ...], where: str) -> str:
    for column in columns:
        value = row.get(column)
        if isinstance(value, str) and value.strip():
            return value.strip()
    raise InputError(f"{where} has no {columns[0]!r}; give one of the columns {', '.join(columns)}")
