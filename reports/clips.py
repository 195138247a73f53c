"""Which clips a report shows, and their bytes. The choice is made by the bench, never here: fixed and worst."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.records import Clip, RecordError, read_samples
from reports import text
from reports.rows import Row


@dataclass(frozen=True)
class Tile:
    """One cell's place in a strip: a clip as a data URI, or the reason why there is none."""

    row: Row
    uri: str = ""
    reason: str = ""
    caption: str = ""
    scores: str = ""

    @property
    def bytes(self) -> int:
        return len(self.uri)


@dataclass(frozen=True)
class Strip:
    """The same prompt and seed over all cells, or (`worst`) the worst clip of each cell."""

    title: str
    seed: str
    tiles: tuple[Tile, ...]
    worst: bool

    @property
    def bytes(self) -> int:
        return sum(tile.bytes for tile in self.tiles)


def strips(rows: Sequence[Row]) -> tuple[list[Strip], list[str]]:
    """All strips, the worst first, then fixed prompts in the order of the suite; and what went wrong."""
    found: list[Strip] = []
    problems: list[str] = []
    if any(_clip(row, "worst") for row in rows):
        tiles = [_tile(row, _clip(row, "worst"), problems, own_prompt=True) for row in rows]
        found.append(Strip("The worst clip of each cell", "", tuple(tiles), worst=True))
    asked = {
        (clip.index, clip.prompt, clip.seed)
        for row in rows
        for clip in (row.record.clips if row.record else ())
        if clip.role == "fixed"
    }
    for index, prompt, seed in sorted(asked):
        tiles = [_tile(row, _clip(row, "fixed", (index, prompt, seed)), problems) for row in rows]
        found.append(Strip(prompt, str(seed), tuple(tiles), worst=False))
    return found, problems


def fit(found: Sequence[Strip], room: int) -> tuple[list[Strip], list[Strip]]:
    """Strips whose clips fit into `room` bytes, in order, and those left out. A strip goes whole: a gap for one
    cell only would hide that cell."""
    shown: list[Strip] = []
    for position, strip in enumerate(found):
        room -= strip.bytes
        if room < 0:
            return shown, list(found[position:])
        shown.append(strip)
    return shown, []


def without_clips(found: Sequence[Strip]) -> list[Strip]:
    """The same strips with a byte for each clip: what the page costs around them."""
    return [
        replace(strip, tiles=tuple(replace(tile, uri=tile.uri[:1]) for tile in strip.tiles))
        for strip in found
    ]


def _clip(row: Row, role: str, asked: tuple[int, str, int] | None = None) -> Clip | None:
    for clip in row.record.clips if row.record else ():
        if clip.role == role and asked in (None, (clip.index, clip.prompt, clip.seed)):
            return clip
    return None


def _tile(row: Row, clip: Clip | None, problems: list[str], own_prompt: bool = False) -> Tile:
    if clip is None:
        return Tile(row, reason="no clip stored" if row.ok else row.outcome)
    caption = f"{clip.prompt} (seed {clip.seed})" if own_prompt else ""
    try:
        uri = data_uri(row.run.path, clip)
    except LeadsOut:
        problems.append(f"{row.label}: clip path {clip.path!r} leads out of the run folder; it is not shown.")
        return Tile(row, reason="path leads out of the run", caption=caption)
    except OSError:
        problems.append(f"{row.label}: clip {clip.path!r} is in the record but cannot be read.")
        return Tile(row, reason="file missing", caption=caption)
    return Tile(row, uri, caption=caption, scores=_scores(row, clip, problems))


class LeadsOut(OSError):
    """A record names a file outside of its run: what lies there is nobody's business."""


def data_uri(run: Path, clip: Clip) -> str:
    """The file of a clip, to be written into a page. Raises LeadsOut, or another OSError where it cannot be read."""
    folder = run.resolve()
    path = (folder / clip.path).resolve()
    if not path.is_relative_to(folder):
        raise LeadsOut("its path leads out of the run")
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def _scores(row: Row, clip: Clip, problems: list[str]) -> str:
    """The clip's own scores, from the sidecar file of its cell."""
    if row.record is None or row.record.samples is None:
        return ""
    try:
        for sample in read_samples(row.run.path, row.record):
            if sample.get("index") == clip.index and sample.get("seed") == clip.seed:
                return ", ".join(
                    f"{name} {text.number(value)}"
                    for name, value in sample.items()
                    if name not in ("index", "seed") and isinstance(value, int | float)
                )
    except (RecordError, ValueError) as error:
        if str(error) not in problems:
            problems.append(str(error))
    return ""
