"""Scores of the same name and protocol, gathered over the cells. Other protocols are other metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.records import Score
from reports import glossary, text
from reports.rows import Row

HEADLINE = ("fvd-world", "fvd")
"""Metrics that decide "best", in order of preference; without them, the one that most cells carry."""


@dataclass(frozen=True)
class Point:
    """The score of one finished cell, where it has a value."""

    row: Row
    score: Score
    value: float

    @property
    def cost(self) -> float:
        """What to minimise."""
        if self.score.better == "target":
            return abs(self.value - (self.score.target or 0.0))
        return self.value if self.score.better == "lower" else -self.value

    @property
    def seconds(self) -> float:
        """A clip, text to file."""
        return self.row.clip_seconds

    @property
    def shown(self) -> str:
        return text.number(self.value, self.score.low, self.score.high)

    @property
    def bounds(self) -> str:
        """The 95 % interval; empty without one."""
        return text.interval(self.value, self.score.low, self.score.high)

    def reaches(self, goal: Point) -> bool:
        """Whether the 95 % interval of this score reaches the value of `goal`."""
        low, high = self.score.low, self.score.high
        if self.cost <= goal.cost:
            return True
        if low is None or high is None:
            return False
        if self.score.better == "target":
            target = self.score.target or 0.0
            return abs(min(max(target, low), high) - target) <= goal.cost
        return low <= goal.value if self.score.better == "lower" else high >= goal.value


@dataclass(frozen=True)
class Metric:
    """One column: `entries` pairs every row that carries the score with it. `title` is unique in a report."""

    name: str
    protocol: str
    title: str
    entries: tuple[tuple[Row, Score], ...]

    @property
    def systems(self) -> list[Point]:
        """Finished cells that are no reference: what may be ranked, and plotted as points."""
        return [point for point in self._points() if not point.row.reference]

    @property
    def references(self) -> list[Point]:
        """Reference rows; where several runs agree on one to the last digit, it stands here once."""
        points = (point for point in self._points() if point.row.reference)
        same = {(point.row.system, point.value, point.bounds): point for point in points}
        return list(same.values())

    def reference_name(self, point: Point) -> str:
        """The system's name, with the run where runs disagree on it."""
        alone = sum(other.row.system == point.row.system for other in self.references) == 1
        return point.row.system if alone else point.row.label

    def _points(self) -> list[Point]:
        return [
            Point(row, score, score.value)
            for row, score in self.entries
            if row.ok and score.value is not None
        ]

    def comparable(self) -> Metric:
        """This metric of the references and of systems of one work, the one that most of them do."""
        works = [point.row.work for point in self.systems]
        if len(set(works)) < 2:
            return self
        common = max(dict.fromkeys(works), key=works.count)
        kept = ((row, score) for row, score in self.entries if row.reference or row.work == common)
        return replace(self, entries=tuple(kept))

    @property
    def first(self) -> Score:
        return self.entries[0][1]

    @property
    def direction(self) -> str:
        return (
            f"{self.first.target:g} is best"
            if self.first.better == "target"
            else f"{self.first.better} is better"
        )

    @property
    def meaning(self) -> str:
        return glossary.meaning(self.name)

    @property
    def samples(self) -> str:
        """`n = 64`, or the range where cells differ."""
        counts = sorted({score.n for _, score in self.entries})
        return f"n = {counts[0]:,}" + (f" to {counts[-1]:,}" if len(counts) > 1 else "")

    def best(self) -> Point | None:
        """The best system; the cheaper of two equals."""
        return min(self.systems, key=lambda point: (point.cost, point.seconds), default=None)


def metrics(rows: Sequence[Row]) -> list[Metric]:
    """All metrics: the one that decides, the other known ones, then the rest in order of appearance."""
    grouped: dict[tuple[str, str], list[tuple[Row, Score]]] = {}
    for row in rows:
        for name, score in (row.record.scores if row.record else {}).items():
            grouped.setdefault((name, score.protocol), []).append((row, score))
    variants: dict[str, int] = {}
    found = []
    for (name, protocol), entries in grouped.items():
        variants[name] = variants.get(name, 0) + 1
        title = name if variants[name] == 1 else f"{name}, protocol {variants[name]}"
        found.append(Metric(name, protocol, title, tuple(entries)))
    main = headline(found)
    return sorted(found, key=lambda metric: (metric is not main, glossary.order(metric.name)))


def headline(found: Sequence[Metric]) -> Metric | None:
    """The metric that decides: the preferred name, then the one that most systems carry."""

    def rank(metric: Metric) -> tuple[int, int, bool]:
        preferred = HEADLINE.index(metric.name) if metric.name in HEADLINE else len(HEADLINE)
        return (preferred, -len(metric.systems), metric.first.better == "target")

    return min((metric for metric in found if metric.systems), key=rank, default=None)
