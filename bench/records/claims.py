"""claims.json: the table of the paper's claims, with its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from bench.records.base import Frozen
from bench.records.record import Score


class CurvePoint(Frozen):
    """One place of a curve, over the seeds of a claim. `low` and `high` span them at 95 % (None with one seed)."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


class Curve(Frozen):
    """A line of a claim's figure."""

    name: str
    points: tuple[CurvePoint, ...]


class ClaimRow(Frozen):
    """A line of the claims table: what the paper says, what was asked here, and what came out."""

    id: str
    claim: str
    paper: str = Field(description="the paper's number")
    protocol: str
    sample: str = Field(description="sample size and seeds")
    threshold: str = Field(description="stated before the runs")
    value: FiniteFloat | None = None
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    verdict: Literal["reproduced", "not reproduced", "not testable here", "not run yet"]
    note: str = ""
    earlier: str = Field("", description="what an earlier asking of the same claim found")
    departure: str = Field("", description="where what was done is not what the protocol says")
    x_label: str = ""
    y_label: str = ""
    curves: tuple[Curve, ...] = ()

    @model_validator(mode="after")
    def _a_verdict_rests_on_a_number(self) -> Self:
        if self.verdict in ("reproduced", "not reproduced") and self.value is None:
            raise ValueError(f"verdict {self.verdict!r} needs a value")
        return self


class StepRow(Frozen):
    """What a model makes in so many steps. `passes`: of its transformer, for a clip. `task`, `solver`: of the bench's
    adapter; without, the solver that came with the model.
    """

    model: str
    solver: str | None = None
    task: str = "image to video"
    steps: int
    passes: int
    scores: dict[str, Score]

    @property
    def name(self) -> str:
        return self.model if self.solver is None else f"{self.model}, {self.solver}"


class ClaimsTable(Frozen):
    """claims.json, beside the runs of a results folder: the last state of all claims. `teacher`: of its weights.

    steps: models of this lab, at numbers of steps (claims d), asked as `steps_protocol` says.
    """

    schema_version: Literal[1] = 1
    scale: str
    teacher: str = ""
    rows: tuple[ClaimRow, ...]
    steps: tuple[StepRow, ...] = ()
    steps_protocol: str = ""


CLAIMS = "claims.json"
PUBLISHED_CLAIMS = Path(__file__).parents[1] / "claims" / "published" / CLAIMS
"""The table that is committed, for results folders that have none."""
