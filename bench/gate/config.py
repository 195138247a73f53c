"""gates.yaml -> validated `Gates`: what a gate measures, how much may change, and what is waived until when."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from bench import prompts, strict_yaml, systems
from bench.errors import SuiteError, nearest
from bench.gate_policy import Policy, looks
from bench.hardware import ROOT
from bench.prompts import PromptSpec
from bench.records import Knob, digest
from bench.scorers import Clips, objection
from bench.strict_yaml import Strict
from bench.systems import Request

DEFAULT = ROOT / "bench" / "gates.yaml"
LATENCY, OUTPUT, QUALITY = "latency", "output", "quality"
COUNTERS = (
    "parameter_bytes",
    "flops",
    "peak_tensor_bytes",
    "aten_calls",
    "kernel_launches",
    "resident_bytes",
    "cuda_bytes",
)
"""In the order of tables. The first five are exact and gate tightly; the allocators' two are loose."""


class CellSpec(Strict):
    workload: str = Field(description="package.module:Class, see bench/gate/workloads.py")
    knobs: dict[str, Knob] = Field(default_factory=dict)
    pairs: int = Field(
        4, ge=2, multiple_of=2, description="blocks of base and of head a restart, A B B A B A A B"
    )
    passes: int = Field(1, ge=1, description="calls a block")


class Quality(Strict):
    """Both trees answer the same prompts; head may be worse than base by no more than a margin."""

    adapter: str = Field(description="package.module:Class, see bench/systems.py")
    knobs: dict[str, Knob] = Field(default_factory=dict)
    prompts: PromptSpec
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1)
    scorer: str = "bench.scorers:LAB"
    margins: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        min_length=1, description="by metric: the loss of its mean over prompts that is still no loss"
    )

    def requests(self) -> list[Request]:
        """What both trees are asked."""
        return prompts.requests(self.prompts.scenes(), self.seeds)


class Waiver(Strict):
    """One check of one cell that may FAIL until a date. The reason is for whoever finds it then."""

    cell: str
    check: str = Field(description=f"{LATENCY}, {OUTPUT}, a counter, or a metric of `quality`")
    reason: str = Field(min_length=10)
    expires: datetime.date


class Gates(Strict):
    description: str = ""
    cells: dict[str, CellSpec] = Field(min_length=1, description="by the name that tables show")
    policy: Policy = Policy()
    tolerances: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict, description="by counter: growth that is still no growth, as a share of base"
    )
    changed_output: Literal["notice", "fail"] = "notice"
    quality: Quality | None = None
    waivers: list[Waiver] = Field(default_factory=list)
    time_limit: float = Field(60, gt=0, description="seconds for one answer of a worker")

    @field_validator("tolerances")
    @classmethod
    def _known_counters(cls, tolerances: dict[str, float]) -> dict[str, float]:
        for name in tolerances:
            if name not in COUNTERS:
                raise ValueError(f"unknown counter {name!r}{nearest(name, COUNTERS)}")
        return tolerances

    @model_validator(mode="after")
    def _can_speak(self) -> Self:
        """At its last look a gate must be able to say both FAIL and PASS."""
        last = looks(self.policy, len(self.cells))[-1]
        cells = f"{len(self.cells)} cell{'s' * (len(self.cells) > 1)}"
        for depth, error, word in ((last.low_depth, "alpha", "FAIL"), (last.high_depth, "beta", "PASS")):
            if not depth:
                raise ValueError(
                    f"policy: with `{error}` {getattr(self.policy, error):g} and {cells}, {last.restarts} restarts can "
                    f"never end in {word}: raise `restarts` or `{error}`"
                )
        return self

    @model_validator(mode="after")
    def _waivers_name_checks(self) -> Self:
        if QUALITY in self.cells:
            raise ValueError(f"a cell cannot be called {QUALITY!r}: tables call the scores so")
        margins = self.quality.margins if self.quality else {}
        for waiver in self.waivers:
            known = dict.fromkeys(self.cells, (LATENCY, OUTPUT, *COUNTERS)) | {QUALITY: tuple(margins)}
            if waiver.cell not in known:
                raise ValueError(f"waiver for unknown cell {waiver.cell!r}{nearest(waiver.cell, known)}")
            if waiver.check not in known[waiver.cell]:
                raise ValueError(
                    f"waiver for unknown check {waiver.check!r} of {waiver.cell}"
                    f"{nearest(waiver.check, known[waiver.cell])}"
                )
        return self

    @property
    def id(self) -> str:
        """Hash of everything that is measured and how it is judged: what an interrupted gate must share to go on."""
        return digest(self.model_dump(mode="json", exclude={"description", "waivers"}))

    def refuse_expired(self, today: datetime.date) -> None:
        """Raises SuiteError naming the waivers whose time is over."""
        late = [waiver for waiver in self.waivers if waiver.expires < today]
        if late:
            lines = [
                f"waiver of {waiver.check} of {waiver.cell} expired on {waiver.expires} ({waiver.reason})"
                for waiver in late
            ]
            raise SuiteError(
                "\n".join([*lines, "repair what it waives, or renew it with a reason and a date"])
            )

    def knobs(self, cell: str) -> dict[str, Knob]:
        """Every knob of a cell's workload, defaults written out. Raises SuiteError for one that it has not."""
        spec = self.cells[cell]
        return systems.knobs_of(systems.make(spec.workload, spec.knobs))


def read(path: Path) -> Gates:
    """Raises SuiteError naming file, place, value and remedy."""
    gates = parse(strict_yaml.read(path, "gates"), str(path))
    for name in gates.cells:
        gates.knobs(name)
    if gates.quality:
        system = systems.make(gates.quality.adapter, gates.quality.knobs)
        count = len(gates.quality.prompts.scenes())
        if count < 2:
            raise SuiteError(
                f"{path}: quality: prompts: {count} of them bound no loss: give 2 at the very least"
            )
        scorer = systems.find(gates.quality.scorer, "scorer")
        scorer.protocols(list(gates.quality.margins), count, 0)
        known = Clips(gates.quality.prompts.split is not None, None, fps=system.fps)
        if why := objection(scorer, known):
            raise SuiteError(f"{path}: quality: {why}")
        for name in set(gates.quality.margins) & set(getattr(scorer, "of_all_clips", ())):
            raise SuiteError(
                f"{path}: quality: margins: {name} is of all clips together, and a gate pairs prompts: name another"
            )
    return gates


def parse(data: Any, name: str) -> Gates:
    """Gates from plain data; `name` is what messages call them. Raises SuiteError."""
    try:
        return Gates.model_validate(data)
    except ValidationError as error:
        raise strict_yaml.refusal(name, error) from error
