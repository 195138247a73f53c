"""Long video: pace of its windows, memory and time against length, drift by window, and the video itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bench.records import RecordError, Windows, read_samples
from reports import svg, text
from reports.clips import data_uri
from reports.rows import SECONDS, Row

FEWEST = 3
"""Lengths below which every line fits."""


@dataclass(frozen=True)
class Lengths:
    """Cells that differ in their length alone, shortest first."""

    name: str
    rows: tuple[Row, ...]

    @property
    def seconds(self) -> list[float]:
        return [row.long or 0.0 for row in self.rows]

    @property
    def peaks(self) -> list[int | None]:
        """Of one kind, that of the shortest video."""
        peaks = [row.record.memory.peak if row.record and row.record.memory else None for row in self.rows]
        kind = next((peak.kind for peak in peaks if peak), None)
        return [peak.bytes if peak and peak.kind == kind else None for peak in peaks]

    @property
    def growth(self) -> float | None:
        """The largest peak over that of the shortest video."""
        first, *rest = self.peaks
        return max(size for size in rest if size) / first if first and any(rest) else None

    @property
    def line(self) -> tuple[float, float] | None:
        """Seconds a second of video, and seconds besides: least squares of relative errors."""
        if len(self.rows) < FEWEST:
            return None
        length, time = np.array(self.seconds), np.array([row.clip_seconds for row in self.rows])
        slope, besides = np.linalg.lstsq(
            np.stack([length, np.ones_like(length)], 1) / time[:, None], time / time
        )[0]
        return float(slope), float(besides)

    @property
    def residual(self) -> float | None:
        """The largest relative error of the line."""
        if self.line is None:
            return None
        slope, besides = self.line
        pairs = zip(self.rows, self.seconds, strict=True)
        return max(abs(slope * length + besides - (t := row.clip_seconds)) / t for row, length in pairs)

    @property
    def sentence(self) -> str:
        """What these cells say, in numbers."""
        shortest, longest = (f"{seconds:g} s" for seconds in (self.seconds[0], self.seconds[-1]))
        parts = [f"{self.name}, from {shortest} to {longest}"]
        if self.growth is not None:
            parts.append(f"the largest peak memory is {text.times(self.growth)} that of {shortest}")
        if self.line and self.residual is not None:
            parts.append(
                f"a second of video takes {text.seconds(self.line[0])}, and no length is more than "
                f"{100 * self.residual:.1f} % off that line"
            )
        return ": ".join([parts[0], "; ".join(parts[1:]) or "nothing could be compared"]) + "."


@dataclass(frozen=True)
class Drifts:
    """`curves`: score -> mean over the videos of a cell, one number a window, NaN where no video has one.

    Scores that no window has, as the speed of what stands still, are left out.
    """

    row: Row
    window_seconds: float
    curves: Mapping[str, np.ndarray]
    videos: int


@dataclass(frozen=True)
class Pace:
    """One line of the table of windows."""

    row: Row
    windows: Windows


@dataclass(frozen=True)
class Video:
    """A stored long video as a data URI."""

    row: Row
    prompt: str
    uri: str


def paces(rows: Sequence[Row]) -> list[Pace]:
    return [Pace(row, row.record.windows) for row in rows if row.ok and row.record and row.record.windows]


def lengths(rows: Sequence[Row]) -> list[Lengths]:
    """Groups of at least two lengths."""
    alike: dict[str, list[Row]] = {}
    for row in rows:
        if row.ok and row.long is not None and not row.reference:
            rest = sorted((name, repr(value)) for name, value in row.knobs.items() if name != SECONDS)
            # Not across runs: a line through two machines is of neither.
            alike.setdefault(f"{row.run.path}{row.system}{rest}", []).append(row)
    groups = (sorted(group, key=lambda row: row.long or 0.0) for group in alike.values())
    return [
        Lengths(group[0].system, tuple(group)) for group in groups if len({row.long for row in group}) > 1
    ]


def drifts(rows: Sequence[Row]) -> tuple[list[Drifts], list[str]]:
    """The curves of every cell that has some, and what went wrong."""
    found, problems = [], []
    for row in rows:
        if not row.ok or row.record is None or row.long is None or row.record.samples is None:
            continue
        try:
            samples = [sample for sample in read_samples(row.run.path, row.record) if sample.get("curves")]
            if samples:
                found.append(_drifts(row, samples))
        except (RecordError, ValueError, KeyError, TypeError) as error:
            problems.append(f"{row.label}: its curves cannot be read: {error}")
    return found, problems


def _drifts(row: Row, samples: Sequence[dict[str, Any]]) -> Drifts:
    curves = {}
    for name in samples[0]["curves"]:
        table = np.array([sample["curves"][name] for sample in samples], dtype=float)
        known = np.isfinite(table)
        if not known.any():
            continue
        sums = np.where(known, table, 0.0).sum(0)
        curves[name] = np.divide(sums, known.sum(0), out=np.full(len(sums), math.nan), where=known.any(0))
    return Drifts(row, float(samples[0]["window_seconds"]), curves, len(samples))


def videos(rows: Sequence[Row], room: int) -> tuple[list[Video], list[str]]:
    """The first video of every cell, the longest cells first, in `room` bytes; and what was left out or is lost."""
    found, problems = [], []
    for row in sorted(rows, key=lambda row: -(row.long or 0.0)):
        clip = next(iter(row.record.clips), None) if row.ok and row.record and row.long else None
        if clip is None:
            continue
        try:
            uri = data_uri(row.run.path, clip)
        except OSError as error:
            problems.append(f"{row.label}: its video {clip.path!r} is not shown: {error}.")
            continue
        if len(uri) > room:
            problems.append(f"{row.label}: its video is left out to keep this file small; see {clip.path}.")
            continue
        room -= len(uri)
        found.append(Video(row, clip.prompt, uri))
    return found, problems


def draw_lengths(found: Lengths, name: str) -> str:
    """Peak memory and time against length, each from zero."""
    with svg.style():
        figure = Figure(figsize=(7.2, 2.7), layout="constrained")
        memory, time = figure.subplots(1, 2)
        sized = [(length, size) for length, size in zip(found.seconds, found.peaks, strict=True) if size]
        memory.plot([x for x, _ in sized], [size / 1e6 for _, size in sized], color=svg.SERIES[0], marker="o")
        memory.set_title("peak memory, MB", color=svg.INK)
        times = [row.clip_seconds for row in found.rows]
        time.plot(found.seconds, times, color=svg.SERIES[0], marker="o", linestyle="none")
        if found.line:
            slope, besides = found.line
            ends = np.array([0.0, found.seconds[-1]])
            time.plot(ends, slope * ends + besides, color=svg.SERIES[0], linewidth=1.0)
        time.plot([0, found.seconds[-1]], [0, found.seconds[-1]], color=svg.MUTED, linestyle=(0, (2, 3)))
        time.set_title("seconds to make it; dotted: as long as it plays", color=svg.INK)
        for axes in (memory, time):
            axes.set_xlabel("seconds of video")
            axes.set_xlim(0, 1.05 * found.seconds[-1])
            axes.set_ylim(bottom=0)
            axes.grid(axis="y")
        return svg.render(figure, name, found.sentence)


def titled(score: str, found: Sequence[Drifts] = ()) -> str:
    """What a figure calls a curve, with its unit: of the judge's readings (`right-shape`) the mean is a share."""
    kind, _, attribute = score.partition("-")
    if kind == "right":
        return f"{attribute} right, share of videos"
    records = [drift.row.record for drift in found if drift.row.record]
    rates = [record.scores[name].unit for record in records if (name := f"drift-{score}") in record.scores]
    unit = rates[0].removesuffix(" per minute") if rates else ""
    return f"{score} ({unit})" if unit else score


def asked(drift: Drifts) -> tuple[str, tuple[int, ...]]:
    """Prompts and seeds: curves of others are of other videos, and truth's are no scale for them."""
    record = drift.row.record
    return (record.prompts.sha256 if record and record.prompts else "", record.seeds if record else ())


def draw_drift(score: str, found: Sequence[Drifts], name: str, of: tuple[str, tuple[int, ...]]) -> str:
    """One score over the windows of every cell that was asked what `of` says; references are dashed."""
    with svg.style():
        figure = Figure(figsize=(3.6, 2.4), layout="constrained")
        axes = figure.subplots()
        said = []
        # The longest first: shorter ones, which may begin alike, lie on it and not under it.
        for index, drift in sorted(enumerate(found), key=lambda entry: -(entry[1].row.long or 0.0)):
            values = drift.curves.get(score)
            if values is None or asked(drift) != of:
                continue
            reference = drift.row.reference
            axes.plot(
                drift.window_seconds * np.arange(len(values)), values,
                color=svg.MUTED if reference else svg.SERIES[index % len(svg.SERIES)], linewidth=1.2,
                linestyle=(0, (5, 3)) if reference else "-",
            )  # fmt: skip
            known = values[np.isfinite(values)]
            said.append(f"{drift.row.label}: {text.number(known[0])} to {text.number(known[-1])}")
        counts = sorted({drift.videos for drift in found if asked(drift) == of})
        title = f"{titled(score, found)}, n = {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))}"
        axes.set_title(title, color=svg.INK)
        axes.set_xlabel("seconds into the video")
        axes.grid(axis="y")
        return svg.render(figure, name, f"{title}, by window. " + "; ".join(said))
