"""The table of all cells: what stands in each field, and what its tooltip says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bench.records import RESIDENT, Memory, Record, Score, Timing
from reports import text
from reports.metrics import Metric
from reports.overhead import overhead_bound
from reports.rows import Row

MEMORY = {
    "cuda_allocated": "peak CUDA memory, allocated",
    "cuda_reserved": "peak CUDA memory, reserved",
    "nvml_process": "GPU memory of the process (NVML)",
    "tensors": "peak live tensor bytes",
    "resident": "peak resident set above imports",
}


@dataclass(frozen=True)
class Field:
    """One table field: `main` large, `small` below it, `hover` as the tooltip."""

    main: str
    small: str = ""
    hover: str = ""
    best: bool = False
    note: str = ""


@dataclass
class Table:
    """Fields of every row, in the order of `columns`."""

    rows: Sequence[Row]
    metrics: Sequence[Metric]
    groups: list[tuple[str, list[Row]]] = field(init=False)

    def __post_init__(self) -> None:
        parts = (
            ("Settings", [row for row in self.rows if row.record and not row.reference]),
            ("References: what the scores mean", [row for row in self.rows if row.reference]),
            ("Not run yet", [row for row in self.rows if row.record is None]),
        )
        self.groups = [(name, rows) for name, rows in parts if rows]
        self._overhead = overhead_bound(self.rows)
        ranked = ((metric.title, metric.comparable().best()) for metric in self.metrics)
        self._best = {title: best.row.key for title, best in ranked if best}

    def fields(self, row: Row) -> list[Field]:
        """Latency, real-time factor, memory, then one field per metric."""
        record = row.record
        if record is None:
            return []
        return [
            replace(_timing(row.latency, record), note=self._bound(row)),
            _timing(record.real_time_factor, record, factor=True),
            _memory(record.memory),
            *(self._score(metric, row, record) for metric in self.metrics),
        ]

    def _bound(self, row: Row) -> str:
        factor = self._overhead.get(row.key)
        if factor is None:
            return ""
        return (
            f"overhead-bound: a clip's denoising step takes {factor:.1f} times what it takes in the largest batch, "
            "so fewer weights hardly make it faster"
        )

    def _score(self, metric: Metric, row: Row, record: Record) -> Field:
        for entry, score in metric.entries:
            if entry is row:
                return Field(
                    text.number(score.value, score.low, score.high),
                    text.interval(score.value, score.low, score.high) or score.note or "no interval",
                    score_hover(score, record),
                    best=self._best.get(metric.title) == row.key,
                    note=score.note,
                )
        return Field("–", "", "not scored")


def score_hover(score: Score, record: Record) -> str:
    """Everything that a score rests on."""
    bounds = text.interval(score.value, score.low, score.high) or "none"
    floor = f"\ntruth against truth: {score.floor:.4g}" if score.floor is not None else ""
    note = f"\nnote: {score.note}" if score.note else ""
    return (
        f"n = {score.n:,}\n95 % interval: {bounds}{floor}{note}\nprotocol: {score.protocol}\n{record.command}"
    )


def _timing(timing: Timing | None, record: Record, factor: bool = False) -> Field:
    if timing is None:
        return Field("–", "", "not measured")
    if factor:
        main = text.number(timing.median, timing.low, timing.high)
        bounds = text.interval(timing.median, timing.low, timing.high)
    else:
        main = text.seconds(timing.median, timing.low, timing.high)
        bounds = text.seconds_interval(timing.median, timing.low, timing.high)
    hover = f"median of n = {timing.n}\n95 % interval: {bounds or 'none'}\n{record.command}"
    return Field(main, bounds.split("\u00a0")[0] or "no interval", hover)


def _memory(memory: Memory | None) -> Field:
    if memory is None:
        return Field("–", "", "not measured")
    hover = "\n".join(f"{name}: {value}" for name, value in memory_lines(memory))
    if (peak := memory.peak) is None:
        return Field("not measurable", "", hover)
    kind = peak.kind if peak.kind == RESIDENT else ""
    return Field(text.size(peak.bytes), kind, f"{peak.kind}, one pass of its own\n{hover}")


def memory_lines(memory: Memory) -> list[tuple[str, str]]:
    """Name and value of every peak; `not measurable` is a value."""
    values = [(title, getattr(memory, name)) for name, title in MEMORY.items()]
    return [(title, value if isinstance(value, str) else text.size(value)) for title, value in values]
