"""Suites: YAML -> validated `Suite` -> `Cell`s. Imports no torch; docs and limits live in the fields below.

A system's cells are its base `knobs`, spread by a design:

    grid            every combination of the values on its axes (no axes: the base alone)
    one-at-a-time   the base, then each axis varied alone from it
    list            the named `points`, each laid over the base

`overrides` then tune a point further: the first whose `when` matches sets its knobs, so that e.g. shift and
guidance follow the step count inside a grid. A default counts as a value, and so does what a knob such as `auto` is
resolved to. A system may be asked with `prompts`, `metrics`, … of its own: a minute of video takes as long as thirty
clips, and has other scores.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ByteSize, Field, ValidationError, model_validator

from bench import hardware, prompts, strict_yaml, systems
from bench.cells import Cell
from bench.errors import SuiteError, UnsupportedError, nearest
from bench.prompts import PromptSpec
from bench.records import Knob
from bench.strict_yaml import Strict
from bench.systems import Request
from magic141.errors import Magic141Error, WeightsMissing

OWN = ("prompts", "scorer", "metrics", "warmup", "repeats")
"""What a system may have of its own, instead of the suite's."""


class Override(Strict):
    when: dict[str, Knob] = Field(min_length=1, description="knobs and the values at which this applies")
    set: dict[str, Knob] = Field(min_length=1, description="knobs and the values that they take then")


class SystemSpec(Strict):
    adapter: str = Field(description="package.module:Class, see bench/systems.py")
    role: Literal["system", "reference"] = Field("system", description="reference rows calibrate the scores")
    knobs: dict[str, Knob] = Field(default_factory=dict, description="the base; other knobs keep defaults")
    axes: dict[str, Annotated[list[Knob], Field(min_length=1)]] = Field(default_factory=dict)
    design: Literal["grid", "one-at-a-time", "list"] = "grid"
    points: list[dict[str, Knob]] = Field(default_factory=list, description="for design: list")
    overrides: list[Override] = Field(default_factory=list)
    prompts: PromptSpec | None = Field(None, description="instead of the suite's, for this system alone")
    scorer: str | None = Field(None, description="likewise")
    metrics: list[str] | None = Field(None, min_length=1, description="likewise")
    warmup: int | None = Field(None, ge=0, description="likewise")
    repeats: int | None = Field(None, ge=1, description="likewise")

    @model_validator(mode="after")
    def _design_has_its_input(self) -> Self:
        if (self.design == "list") != bool(self.points):
            raise ValueError("`points` goes with `design: list`, and that design needs at least one")
        if self.design == "list" and self.axes:
            raise ValueError("`axes` has no meaning in `design: list`: write the values into `points`")
        return self

    def knob_points(self, name: str) -> Iterator[dict[str, Knob]]:
        """The knobs of every cell, in the order of the file, equal points once; `name` is what messages call the
        system. Raises SuiteError for an override that applies to no point.
        """
        self._check_overrides(name)
        seen, applied = [], set()
        for point in self._spread():
            for place, override in enumerate(self.overrides):
                if self._applies(override, point):
                    point = {**point, **override.set}
                    applied.add(place)
                    break
            if point not in seen:
                seen.append(point)
                yield point
        for place, override in enumerate(self.overrides):
            if place not in applied:
                raise SuiteError(
                    f"systems.{name}.overrides.{place}: `when` {override.when} applies to no point: no point has these "
                    "values, or an earlier override takes each that has; correct or drop it"
                )

    def imports(self, name: str) -> Sequence[str]:
        """Modules that the system wants loaded, as the first of its points that can be made says."""
        for point in self.knob_points(name):
            with contextlib.suppress(UnsupportedError, WeightsMissing):
                return systems.make(self.adapter, point).imports
        return ()

    def _check_overrides(self, name: str) -> None:
        known = systems.knob_names(systems.find(self.adapter)) if self.overrides else []
        for place, override in enumerate(self.overrides):
            for key in override.when:
                if key not in known:
                    where = f"systems.{name}.overrides.{place}"
                    raise SuiteError(f"{where}: {self.adapter} has no knob {key!r}{nearest(key, known)}")

    def _applies(self, override: Override, point: dict[str, Knob]) -> bool:
        """Whether the point has these values, as it is written or as the system resolves it, defaults included."""
        if all(key in point and point[key] == value for key, value in override.when.items()):
            return True
        try:
            system = systems.make(self.adapter, point)
        except Magic141Error:  # it needs the override that is still to come, or is a point to refuse later
            return False
        return all(getattr(system, key) == value for key, value in override.when.items())

    def _spread(self) -> Iterator[dict[str, Knob]]:
        if self.design == "list":
            yield from ({**self.knobs, **point} for point in self.points)
        elif self.design == "grid":
            for values in itertools.product(*self.axes.values()):
                yield {**self.knobs, **dict(zip(self.axes, values, strict=True))}
        else:
            yield dict(self.knobs)
            yield from ({**self.knobs, axis: value} for axis, values in self.axes.items() for value in values)


class Suite(Strict):
    """One sweep. Every cell answers all prompts with all seeds."""

    name: str = Field(pattern=r"^[\w.-]+$")
    description: str = ""
    systems: dict[str, SystemSpec] = Field(min_length=1, description="by the name that tables show")
    prompts: PromptSpec
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1)
    metrics: list[str] = Field(min_length=1, description="names that the scorer knows")
    scorer: str = Field("bench.scorers:LAB", description="package.module:NAME, see bench/scorers.py")
    quality_batch: int = Field(16, ge=1, description="clips generated at once in the quality pass")
    warmup: int = Field(
        1,
        ge=0,
        description="generations thrown away before timing, at least; 0: none, even if a trend remains",
    )
    warmup_limit: int = Field(5, ge=0, description="the same at most, while times still have a trend")
    repeats: int = Field(5, ge=1, description="timed generations of `batch_size` clips")
    extra_repeats: int | None = Field(
        None, ge=0, description="at most so many more, in the place of disturbed ones; by default `repeats`"
    )
    clips: int = Field(12, ge=1, description="clips of the first prompts to store; the worst is stored too")
    time_limit: float = Field(300, gt=0, description="seconds a cell, all passes")
    memory_limit: Annotated[ByteSize, Field(gt=0)] | None = Field(
        None,
        description="bytes, or such as 8GiB: what a cell may take above its imports (Linux); more is `oom`",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; by default all cores of the process")
    exam: int | None = Field(
        None, ge=8, description="truth clips on which the scores themselves are examined; by default no exam"
    )
    analytic: bool = Field(False, description="whether the report says what every known system must cost")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        own = [(f"systems.{name}.metrics", spec.metrics or []) for name, spec in self.systems.items()]
        groups: list[tuple[str, Sequence[object]]] = [("seeds", self.seeds), ("metrics", self.metrics), *own]
        for name, values in groups:
            if len(set(values)) != len(values):
                raise ValueError(f"`{name}` names a value twice: {values}")
        return self

    @model_validator(mode="after")
    def _warmup_has_room(self) -> Self:
        own = {f"systems.{name}.warmup": spec.warmup for name, spec in self.systems.items()}
        for name, least in {"warmup": self.warmup, **own}.items():
            if least is not None and least > self.warmup_limit:
                raise ValueError(
                    f"`{name}` is {least} and `warmup_limit` is {self.warmup_limit}, which is the most: raise the "
                    "limit or warm up less"
                )
        return self

    @property
    def protocol(self) -> str:
        """How a cell is measured, scores aside: a part of the question."""
        latency = f"warmup={self.warmup}..{self.warmup_limit} repeats={self.repeats}+{self.extra}"
        return f"latency {latency}; quality batch={self.quality_batch}"

    @property
    def extra(self) -> int:
        return self.repeats if self.extra_repeats is None else self.extra_repeats

    def asked_of(self, system: str) -> Suite:
        """This suite with what `system` has of its own in the place of what all share."""
        spec = self.systems.get(system)
        own = {name: getattr(spec, name) for name in OWN if getattr(spec, name, None) is not None}
        return self.model_copy(update=own)

    def requests(self) -> list[Request]:
        """What every cell is asked, seeds outermost."""
        return prompts.requests(self.prompts.scenes(), self.seeds)

    def cells(self) -> list[Cell]:
        """Every cell, in the order of the file. Raises SuiteError for an unknown knob or adapter."""
        shared = prompts.identified(self.prompts)
        cells: dict[str, Cell] = {}
        for name, spec in self.systems.items():
            asked = self.asked_of(name)
            named = prompts.identified(asked.prompts) if spec.prompts else shared
            sources = hardware.foreign_sha256(spec.adapter, asked.scorer)
            for point in spec.knob_points(name):
                cell = Cell.make(name, spec, point, named, asked, sources)
                if cell.id in cells and spec.design == "one-at-a-time" and cells[cell.id].system == name:
                    continue  # an axis that holds what the base has by default
                if cell.id in cells:
                    raise SuiteError(
                        f"{cell.label} asks the same question as {cells[cell.id].label}; drop one"
                    )
                cells[cell.id] = cell
        exam = [Cell.make_exam(self.exam, self)] if self.exam else []
        return [*cells.values(), *exam, *([Cell.make_analytic()] if self.analytic else [])]


def read(path: Path) -> Suite:
    """Raises SuiteError naming file, place, value and remedy."""
    return parse(strict_yaml.read(path, "suite"), str(path))


def parse(data: Any, name: str) -> Suite:
    """A suite from plain data; `name` is what messages call it. Raises SuiteError."""
    try:
        return Suite.model_validate(data)
    except ValidationError as error:
        raise strict_yaml.refusal(name, error) from error
