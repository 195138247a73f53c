"""What systems are asked: prompts of the lab world, of a list or of a file, and a seed for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from bench.errors import SuiteError
from bench.records import Prompts, digest
from bench.strict_yaml import Strict
from bench.systems import Request

SEED_STRIDE = 1_000_000
"""Request seed = suite seed * SEED_STRIDE + prompt index: every prompt gets noise of its own."""
DIALS = ("start", "stated", "events", "terse")
"""What `split` is turned by, and other sources of prompts are not."""


class PromptSpec(Strict):
    """A split of the lab world and a count, or `texts`, or a `file` with one prompt a line.

    A relative `file` is looked for from the current directory.
    """

    split: Literal["train", "validation", "test", "compositional"] | None = None
    start: int = Field(0, ge=0)
    count: int | None = Field(None, ge=1)
    stated: float = Field(0.0, ge=0, le=1, description="share of hidden factors that captions state")
    events: bool = Field(True, description="whether turns, late objects and unsaid directions occur")
    terse: bool = Field(False, description="whether captions name the subject alone")
    texts: list[Annotated[str, Field(min_length=1)]] | None = Field(None, min_length=1)
    file: Path | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.split, self.texts, self.file)) != 1:
            raise ValueError("give exactly one of `split` (with `count`), `texts`, `file`")
        if (self.split is None) != (self.count is None):
            raise ValueError("`count` goes with `split`, and a split needs it")
        # A suite that was written out, as in run.json, has every default.
        dials = {name for name in DIALS if getattr(self, name) != type(self).model_fields[name].default}
        if self.split is None and dials:
            named = ", ".join(f"`{name}`" for name in DIALS if name in dials)
            raise ValueError(f"{named} of the lab world has no meaning beside `texts` or `file`: drop it")
        if self.terse and self.stated:
            raise ValueError("a terse caption states nothing hidden: give `terse` or `stated`")
        return self

    def scenes(self) -> list[tuple[str, Any]]:
        """(prompt, scene) pairs; scene is None outside the lab world. Raises SuiteError for a bad file."""
        if self.split is not None and self.count is not None:
            from magic141.data.world import World

            world = World(stated=self.stated, events=self.events, terse=self.terse)
            return [(scene.caption(), scene) for scene in world.scenes(self.split, self.start, self.count)]
        return [(text, None) for text in self.texts or self._lines()]

    def _lines(self) -> list[str]:
        assert self.file is not None
        try:
            lines = [line.strip() for line in self.file.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise SuiteError(f"prompt file {self.file} cannot be read: {error}") from error
        if not any(lines):
            raise SuiteError(f"prompt file {self.file} is empty: one prompt a line")
        return [line for line in lines if line]

    @property
    def source(self) -> str:
        if self.split is not None:
            dial = f" stated={self.stated:g} events={self.events}" + " terse" * self.terse
            return f"world {self.split} {self.start}..{self.start + (self.count or 0) - 1}{dial}"
        return f"file {self.file.name}" if self.file else "texts"


def identified(spec: PromptSpec) -> Prompts:
    """Prompts as a record names them: by source, count and hash."""
    texts = [prompt for prompt, _ in spec.scenes()]
    return Prompts(source=spec.source, count=len(texts), sha256=digest(texts, 64))


def requests(pairs: Sequence[tuple[str, Any]], seeds: Iterable[int]) -> list[Request]:
    """Every (prompt, scene) with every seed, seeds outermost."""
    return [
        Request(index, prompt, seed * SEED_STRIDE + index, scene)
        for seed in seeds
        for index, (prompt, scene) in enumerate(pairs)
    ]
