"""One suite over several machines: `--shard i/n` splits its cells, `merge` puts the runs together again.

Every shard is a run of its own, so shards need no shared disk and no network while they run.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cells import Cell
from bench.errors import RunError, SuiteError
from bench.records import Budget, Manifest, PlannedCell, Record, Store, latest, read_samples


def split(cells: Sequence[Cell], shard: str) -> list[Cell]:
    """The cells of shard `i/n`, 1 <= i <= n, in order. Raises SuiteError for another form or an empty shard.

    Dealt out there and back (1 2 3 3 2 1 …), since costs grow along axes. Predicted seconds would balance better,
    but depend on the machine: shards must agree on the split without a word between them.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise SuiteError(f"--shard {shard}: give i/n with 1 <= i <= n, such as 2/4")
    number, count = int(match[1]) - 1, int(match[2])
    there_and_back = [*range(count), *reversed(range(count))]
    mine = [cell for place, cell in enumerate(cells) if there_and_back[place % (2 * count)] == number]
    if not mine:
        raise SuiteError(f"--shard {shard} has no cell: {len(cells)} cells make at most {len(cells)} shards")
    return mine


@dataclass(frozen=True)
class Merged:
    """What `merge` made: `missing` are cells that no run answers, `twice` those that several do."""

    run: Path
    manifest: Manifest
    records: list[Record]
    missing: list[PlannedCell]
    twice: list[str]


def merge(runs: Sequence[Path], out: Path, command: str, mixed: bool = False) -> Merged:
    """A new run `out` with the cells of all `runs`; of a cell in several, the record that started last.

    The order of `runs` changes nothing but which manifest lends its environment. The folder appears whole or not
    at all.

    Raises:
        RunError: `out` exists, or the runs have different suites, environments or code of a system, and `mixed` is not
            set.
        RecordError: a run cannot be read, or a sample file is not the recorded one.
    """
    if out.exists():
        raise RunError(f"{out} exists: name a folder that does not, or remove it")
    manifests = [Manifest.read(run) for run in runs]
    if not mixed:
        _check_equal(runs, manifests)
    found: dict[str, list[tuple[Record, Path]]] = {}
    for run in runs:
        for cell, record in latest(Store(run).records()).items():
            found.setdefault(cell, []).append((record, run))
    if not mixed:
        _check_sources(found)
    chosen = {cell: max(several, key=_age) for cell, several in found.items()}
    plan = {planned.cell: planned for manifest in manifests for planned in manifest.asked or manifest.plan}
    order = [*plan, *(cell for cell in chosen if cell not in plan)]
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        store = Store(temporary)
        for cell in (cell for cell in order if cell in chosen):
            record, run = chosen[cell]
            _copy(record, run, temporary)
            store.append(record)
        missing = [planned for planned in plan.values() if planned.cell not in chosen]
        manifest = _union(manifests, tuple(plan.values()), out.name, command, complete=not missing)
        if manifest.first_clip is not None:
            source = next(run for run, one in zip(runs, manifests, strict=True) if one.first_clip is not None)
            shutil.copyfile(source / manifest.first_clip.path, temporary / manifest.first_clip.path)
        manifest.write(temporary)
        temporary.replace(out)
    except OSError as error:
        raise RunError(f"{out} cannot be made: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    twice = [cell for cell, several in found.items() if len({run for _, run in several}) > 1]
    return Merged(out, manifest, Store(out).records(), missing, twice)


def _check_sources(found: dict[str, list[tuple[Record, Path]]]) -> None:
    """Raises RunError where a system's own code, outside this repository, was another one in another run."""
    seen: dict[tuple[str, str], tuple[str | None, Path]] = {}
    for record, run in (entry for several in found.values() for entry in several):
        if not record.adapter:  # of a version that did not write its sources down
            continue
        sources, first = seen.setdefault((record.system, record.adapter), (record.sources_sha256, run))
        if sources != record.sources_sha256:
            raise RunError(
                f"the code behind {record.system} ({record.adapter}) is not the same in {first} and in {run}: one "
                "table of both would mix versions; --mixed merges them all the same"
            )


def _check_equal(runs: Sequence[Path], manifests: Sequence[Manifest]) -> None:
    first = manifests[0]
    for run, manifest in zip(runs, manifests, strict=True):
        if manifest.question != first.question:
            differ = sorted(
                key
                for key in manifest.question.keys() | first.question.keys()
                if manifest.question.get(key) != first.question.get(key)
            )
            raise RunError(
                f"{runs[0]} and {run} ask different suites ({', '.join(differ)} differ): one table of both would "
                "mix questions; --mixed merges them all the same"
            )
        if manifest.fingerprint != first.fingerprint:
            raise RunError(
                f"{runs[0]} ({first.fingerprint}) and {run} ({manifest.fingerprint}) come from different "
                "environments (machine, versions or source), whose times do not compare; --mixed merges them all "
                "the same, and the report says so"
            )


def _age(found: tuple[Record, Path]) -> tuple[datetime.datetime, str]:
    record, _ = found
    return record.started, record.model_dump_json()


def _copy(record: Record, source: Path, target: Path) -> None:
    """Copies samples and clips. Raises RecordError or RunError where a file is not what the record names."""
    hashes = {clip.path: clip.sha256 for clip in record.clips}
    if record.samples is not None:
        list(read_samples(source, record))
        hashes[record.samples.path] = record.samples.sha256
    for path, sha256 in hashes.items():
        content = (source / path).read_bytes()
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise RunError(
                f"{source / path} is not what its record names (sha256 differs): run its cell again"
            )
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_bytes(content)
    log = Path("logs") / f"{record.cell}.txt"
    if record.outcome != "ok" and (source / log).exists():
        (target / log).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / log, target / log)


def _union(
    manifests: Sequence[Manifest], plan: tuple[PlannedCell, ...], name: str, command: str, complete: bool
) -> Manifest:
    ends = [manifest.finished for manifest in manifests]
    measured = [manifest.measured for manifest in manifests]
    return manifests[0].model_copy(
        update={
            "run": name,
            "command": command,
            "plan": plan,
            "shard": None,
            "asked": (),
            "started": min(manifest.started for manifest in manifests),
            "finished": max(end for end in ends if end) if complete and all(ends) else None,
            "predicted": _sum([manifest.predicted for manifest in manifests]),
            "measured": _sum([one for one in measured if one]) if all(measured) else None,
            "first_clip": next((one.first_clip for one in manifests if one.first_clip), None),
        }
    )


def _sum(budgets: Sequence[Budget]) -> Budget:
    return Budget(
        cells=sum(budget.cells for budget in budgets),
        seconds=sum(budget.seconds for budget in budgets),
        bytes=sum(budget.bytes for budget in budgets),
    )
