"""Run folders to `Run`s: what was recorded, and what was planned but is not there (yet)."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.records import Manifest, PlannedCell, Record, RecordError, Store, latest


class ReportError(Exception):
    """A report cannot be built; the message names the file or value, and the remedy."""


@dataclass(frozen=True)
class Run:
    """One run folder. `records` holds the last record of every cell; `missing` the planned cells without one.

    `tag` tells several runs of one report apart: A, B, …; empty where there is one.
    """

    path: Path
    tag: str
    manifest: Manifest
    records: tuple[Record, ...]
    missing: tuple[PlannedCell, ...]


def load(folders: Sequence[Path]) -> list[Run]:
    """Reads every run once, in the order given. `results/latest`, the file that names a run, stands for that run.

    Raises `ReportError` where a folder is missing, is no run, or was written under another schema version.
    """
    if not folders:
        raise ReportError("no run given: name at least one run folder, such as results/latest")
    unique = {folder.resolve(): folder for folder in map(_folder, folders)}
    runs = []
    for index, folder in enumerate(unique.values()):
        try:
            manifest = Manifest.read(folder)
            records = latest(Store(folder).records())
        except (RecordError, OSError) as error:
            raise ReportError(str(error)) from error
        tag = _letters(index) if len(unique) > 1 else ""
        missing = tuple(planned for planned in manifest.plan if planned.cell not in records)
        runs.append(Run(folder, tag, manifest, tuple(records.values()), missing))
    return runs


def _letters(index: int) -> str:
    """A … Z, AA, AB, …"""
    return (_letters(index // 26 - 1) if index >= 26 else "") + string.ascii_uppercase[index % 26]


def _folder(given: Path) -> Path:
    if given.is_dir():
        return given
    if not given.exists():
        raise ReportError(f"{given} does not exist: name a run folder, one that holds run.json")
    try:
        target = given.parent / given.read_text(encoding="utf-8").strip()
        if target.is_dir():
            return target
    except (OSError, ValueError) as error:  # such as text longer than a name may be
        raise ReportError(f"{given} is neither a run folder nor a file that names one: {error}") from error
    raise ReportError(f"{given} is neither a run folder nor a file that names one")
