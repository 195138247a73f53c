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

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError, model_validator

from bench import hardware, strict_yaml, systems
from bench.errors import SuiteError, nearest
from bench.records import RANDOM_WEIGHTS, Knob, Prompts, digest
from bench.scorers import Clips, Examinable, Scorer, objection
from bench.systems import Request
from magic141.errors import WeightsMissing

EXAM = "exam of the scores"
ANALYTIC = "cost by arithmetic"
"""What tables call them, where cells have the name of a system."""
SEED_STRIDE = 1_000_000
"""Request seed = suite seed * SEED_STRIDE + prompt index: every prompt gets noise of its own."""


DIALS = ("start", "stated", "events", "terse")
"""What `split` is turned by, and other sources of prompts are not."""
OWN = ("prompts", "scorer", "metrics", "warmup", "repeats")
"""What a system may have of its own, instead of the suite's."""


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, data: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(f"unknown key {key!r}{nearest(str(key), cls.model_fields)}")
        return data


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
        except SuiteError:  # no system without the override that is still to come, or a point to refuse later
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
            lines = [line.strip() for line in self.file.read_text(encoding="utf-8").splitlines()]
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
        pairs = self.prompts.scenes()
        return [
            Request(index, prompt, seed * SEED_STRIDE + index, scene)
            for seed in self.seeds
            for index, (prompt, scene) in enumerate(pairs)
        ]

    def cells(self) -> list[Cell]:
        """Every cell, in the order of the file. Raises SuiteError for an unknown knob or adapter."""
        shared = _identified(self.prompts)
        cells: dict[str, Cell] = {}
        for name, spec in self.systems.items():
            asked = self.asked_of(name)
            prompts = _identified(asked.prompts) if spec.prompts else shared
            sources = hardware.foreign_sha256(spec.adapter, asked.scorer)
            for point in spec.knob_points(name):
                cell = Cell.make(name, spec, point, prompts, asked, sources)
                if cell.id in cells:
                    raise SuiteError(
                        f"{cell.label} asks the same question as {cells[cell.id].label}; drop one"
                    )
                cells[cell.id] = cell
        exam = [Cell.make_exam(self.exam, self)] if self.exam else []
        return [*cells.values(), *exam, *([Cell.make_analytic()] if self.analytic else [])]


class Cell(Strict):
    """One question: a system at one setting of its knobs, the prompts, the seeds, the protocol.

    The exam of the scores is a cell too: its adapter is the scorer, its prompts the scenes that it harms. So is the
    analytic table, which has no prompts.
    """

    id: str
    kind: Literal["cell", "exam", "analytic"] = "cell"
    system: str
    adapter: str
    role: Literal["system", "reference"]
    knobs: dict[str, Knob]
    shown: tuple[str, ...] = Field(description="knobs that the suite names, for labels")
    weights_sha256: str | None
    weights_missing: str | None = Field(description="where they were sought; the outcome is decided then")
    protocols: dict[str, str] = Field(description="by metric; empty where weights are missing")
    prompts: Prompts
    seeds: list[int]
    predicted_seconds: float
    flags: tuple[str, ...] = Field(
        (), description="what the system says of itself; every record carries them"
    )
    sources_sha256: str | None = Field(
        None, description="of code outside this repository: no part of the question, but of who answers"
    )

    @property
    def batch_size(self) -> int:
        """Clips per timed generation."""
        return int(self.knobs.get("batch_size") or 1)

    @property
    def label(self) -> str:
        return " ".join([self.system, *(f"{name}={self.knobs[name]}" for name in self.shown)])

    @classmethod
    def make(
        cls,
        name: str,
        spec: SystemSpec,
        point: dict[str, Knob],
        prompts: Prompts,
        suite: Suite,
        sources: str | None,
    ) -> Self:
        """Raises SuiteError where the system cannot be planned, or its clips not be scored."""
        system = systems.make(spec.adapter, point)
        knobs = systems.knobs_of(system)
        batch_size = systems.count(name, knobs, "batch_size", 1)
        frames = systems.count(name, knobs, "num_frames", 0)
        flags: tuple[str, ...] = getattr(system, "flags", ())
        scorer: Scorer = systems.find(suite.scorer, "scorer")
        systems.check_members(spec.adapter, system)
        known = Clips(suite.prompts.split is not None, frames or None, fps=system.fps)
        why = systems.ask(suite.scorer, "objection", lambda: objection(scorer, known))
        if why and RANDOM_WEIGHTS not in flags:
            raise SuiteError(f"systems.{name}: {why}")
        clips = prompts.count * len(suite.seeds)
        weights, protocols, missing = None, {}, None
        try:
            weights = systems.weights(spec.adapter, system)
            protocols = systems.ask(
                suite.scorer, "protocols", lambda: scorer.protocols(suite.metrics, clips, frames)
            )
        except WeightsMissing as error:
            missing = str(error)
        question = {
            "adapter": spec.adapter,
            "knobs": knobs,
            "weights": weights,
            "prompts": prompts.sha256,
            "seeds": suite.seeds,
            "protocol": suite.protocol,
            "scores": protocols,
        }
        timed = (1 + (max(suite.warmup, 2) if suite.warmup else 0) + suite.repeats + 2) * batch_size
        return cls(
            id=digest(question),
            system=name,
            adapter=spec.adapter,
            role=spec.role,
            knobs=knobs,
            shown=tuple(name for name in point if name in knobs),
            weights_sha256=weights,
            weights_missing=missing,
            protocols=protocols,
            prompts=prompts,
            seeds=suite.seeds,
            predicted_seconds=systems.seconds_per_clip(spec.adapter, system)
            * (timed if RANDOM_WEIGHTS in flags else clips + timed),
            flags=flags,
            sources_sha256=sources,
        )

    @classmethod
    def make_exam(cls, clips: int, suite: Suite) -> Self:
        """Raises SuiteError where the suite's scorer has no exam."""
        scorer: Examinable = systems.find(suite.scorer, "scorer")
        if not hasattr(scorer, "exam"):
            raise SuiteError(f"`exam`: scorer {suite.scorer} has none; drop the key")
        question: dict[str, Any] = {"scorer": suite.scorer, "clips": clips}
        missing = None
        try:
            question["protocol"] = scorer.exam_protocol(clips)
        except WeightsMissing as error:
            missing = str(error)
        return cls(
            id=digest(question),
            kind="exam",
            system=EXAM,
            adapter=suite.scorer,
            role="reference",
            knobs={"clips": clips},
            shown=("clips",),
            weights_sha256=None,
            weights_missing=missing,
            protocols={},
            prompts=Prompts(source="truth clips of the scorer", count=clips, sha256=digest(question, 64)),
            seeds=[0],
            predicted_seconds=scorer.exam_seconds(clips),
            sources_sha256=hardware.foreign_sha256(suite.scorer),
        )

    @classmethod
    def make_analytic(cls) -> Self:
        from bench import analytic

        question = {"analytic": analytic.question()}
        return cls(
            id=digest(question),
            kind="analytic",
            system=ANALYTIC,
            adapter="bench.analytic:rows",
            role="reference",
            knobs={},
            shown=(),
            weights_sha256=None,
            weights_missing=None,
            protocols={},
            prompts=Prompts(source="none", count=1, sha256=digest(question, 64)),
            seeds=[0],
            predicted_seconds=analytic.SECONDS,
        )


def _identified(spec: PromptSpec) -> Prompts:
    texts = [prompt for prompt, _ in spec.scenes()]
    return Prompts(source=spec.source, count=len(texts), sha256=digest(texts, 64))


def read(path: Path) -> Suite:
    """Raises SuiteError naming file, place, value and remedy."""
    return parse(strict_yaml.read(path, "suite"), str(path))


def parse(data: Any, name: str) -> Suite:
    """A suite from plain data; `name` is what messages call it. Raises SuiteError."""
    try:
        return Suite.model_validate(data)
    except ValidationError as error:
        lines = [
            ": ".join(filter(None, [name, ".".join(map(str, problem["loc"])), _reason(problem)]))
            for problem in error.errors()
        ]
        raise SuiteError("\n".join(lines)) from error


def _reason(problem: Any) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    given = problem["input"]
    return (
        message
        if isinstance(given, dict | list) or problem["type"] == "missing"
        else f"{message} (got {given!r})"
    )
