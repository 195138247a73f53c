"""Two runs, cell by cell: paired by cell id, scores by paired samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.errors import RunError
from bench.records import END_TO_END, Record, Score, Timing, read_samples
from evals import statistics
from evals.compare import verdict


@dataclass(frozen=True)
class Difference:
    """One line of a comparison, as text. `verdict` is empty where nothing can be said."""

    cell: str
    label: str
    what: str
    first: str
    second: str
    interval: str = ""
    n: str = ""
    verdict: str = ""


def compare(
    first: Mapping[str, Record],
    second: Mapping[str, Record],
    folders: tuple[Path, Path],
    labels: Mapping[str, str],
) -> Iterator[Difference]:
    """Second minus first, for every cell that both have; `labels` names the cells.

    Raises RecordError for samples that are not the recorded ones.
    """
    for cell, a in first.items():
        b = second.get(cell)
        if b is None or a.kind != "cell":
            continue
        yield from _differences(a, b, folders, labels[cell])


def pair(a: Record, b: Record, folders: tuple[Path, Path]) -> list[Difference]:
    """Second minus first of two cells that answer the same prompts with the same seeds.

    Raises RunError where they do not; RecordError for samples that are not the recorded ones.
    """
    asked = [
        f"{record.prompts.source} ({record.prompts.sha256[:8]})" if record.prompts else "unknown"
        for record in (a, b)
    ]
    for what, one, two in (("prompts", *asked), ("seeds", a.seeds, b.seeds)):
        if one != two:
            raise RunError(f"cells {a.cell} and {b.cell} cannot be paired: their {what} are {one} and {two}")
    systems = a.system if a.system == b.system else f"{a.system} → {b.system}"
    return list(_differences(a, b, folders, ": ".join(filter(None, [systems, _changed(a, b)]))))


def _changed(a: Record, b: Record) -> str:
    """Knobs that differ: of two systems those that both have, because the others are no change of one thing."""
    shared = [
        name
        for name in dict.fromkeys([*a.knobs, *b.knobs])
        if a.system == b.system or name in a.knobs.keys() & b.knobs.keys()
    ]
    named = {name: (a.knobs.get(name), b.knobs.get(name)) for name in shared}
    return ", ".join(f"{name} {one} → {two}" for name, (one, two) in named.items() if one != two)


def _differences(a: Record, b: Record, folders: tuple[Path, Path], label: str) -> Iterator[Difference]:
    if a.outcome != "ok" or b.outcome != "ok":
        same = "" if a.outcome == b.outcome else "differs"
        yield Difference(a.cell, label, "outcome", a.outcome, b.outcome, verdict=same)
        return
    yield _latency(a, b, label)
    pairs = paired_samples(a, b, folders)
    for name in a.scores:
        if name in b.scores:
            yield _score(a, b, name, label, pairs.get(name))


def paired_samples(a: Record, b: Record, folders: tuple[Path, Path]) -> dict[str, np.ndarray]:
    """Column -> differences second minus first, over the prompts and seeds where both have a number."""
    tables = [
        {(row["index"], row["seed"]): row for row in read_samples(folder, record)}
        for folder, record in zip(folders, (a, b), strict=True)
    ]
    common = [key for key in tables[0] if key in tables[1]]
    columns = {}
    for name in a.scores:
        values = [(tables[0][key].get(name), tables[1][key].get(name)) for key in common]
        numbers = [(x, y) for x, y in values if x is not None and y is not None]
        if numbers:
            columns[name] = np.array([float(y) - float(x) for x, y in numbers])
    return columns


def _score(a: Record, b: Record, name: str, label: str, differences: np.ndarray | None) -> Difference:
    one, two = a.scores[name], b.scores[name]
    line = (a.cell, label, name, _value(one), _value(two))
    if one.protocol != two.protocol:
        return Difference(*line, verdict="refused: protocols differ")
    if one.value is None or two.value is None:
        return Difference(*line, verdict="undefined")
    if differences is None:
        return Difference(*line, interval=f"{two.value - one.value:+.3g}", verdict="no paired samples")
    found = statistics.mean(differences)
    bounds = f" [{found.low:+.3g}, {found.high:+.3g}]" if found.n > 1 else ""
    shown = f"{found.value:+.3g}{bounds}"
    return Difference(*line, interval=shown, n=str(found.n), verdict=verdict(found, one.better))


def _latency(a: Record, b: Record, label: str) -> Difference:
    """Ratio of medians. Each side is one process, so this is a hint: `gate` is what decides."""
    one, two = a.stages[END_TO_END], b.stages[END_TO_END]
    what = f"{END_TO_END} (s)"
    note = "one process each"
    if a.fingerprint != b.fingerprint:
        note = "environments differ"
    elif a.cell == b.cell and a.adapter and b.adapter and a.sources_sha256 != b.sources_sha256:
        note = "the system's code differs"
    ratio = f"× {two.median / one.median:.3f}"
    return Difference(a.cell, label, what, _median(one), _median(two), ratio, f"{one.n}, {two.n}", note)


def _median(timing: Timing) -> str:
    return f"{timing.median:.4g}"


def _value(score: Score) -> str:
    return "undefined" if score.value is None else f"{score.value:.4g}"
