"""One question of a sweep, with the id under which its answer is found again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field

from bench import hardware, systems
from bench.errors import SuiteError, UnsupportedError
from bench.records import RANDOM_WEIGHTS, Knob, Prompts, digest
from bench.scorers import Clips, Examinable, Scorer, check_scorer, objection
from bench.strict_yaml import Strict
from magic141.errors import WeightsMissing

if TYPE_CHECKING:
    from bench.suite import Suite, SystemSpec

EXAM = "exam of the scores"
ANALYTIC = "cost by arithmetic"
"""What tables call them, where cells have the name of a system."""


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
    unsupported: str | None = Field(
        None, description="why the system cannot answer; the outcome is decided then"
    )
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
        try:
            system = systems.make(spec.adapter, point)
        except (UnsupportedError, WeightsMissing) as error:
            return cls.refused(name, spec, point, prompts, suite, sources, error)
        knobs = systems.knobs_of(system)
        batch_size = systems.count(name, knobs, "batch_size", 1)
        frames = systems.count(name, knobs, "num_frames", 0)
        systems.check_members(spec.adapter, system)
        flags = tuple(getattr(system, "flags", ()))
        scorer: Scorer = systems.find(suite.scorer, "scorer")
        check_scorer(suite.scorer, scorer)
        known = Clips(suite.prompts.split is not None, frames or None, fps=system.fps)
        why = systems.ask(suite.scorer, "objection", lambda: objection(scorer, known))
        if why and RANDOM_WEIGHTS not in flags:
            raise SuiteError(f"systems.{name}: {why}")
        clips = prompts.count * len(suite.seeds)
        weights, protocols, missing, unsupported, guess = None, {}, None, None, 0.0
        try:
            weights = systems.weights(spec.adapter, system)
            protocols = systems.ask(
                suite.scorer, "protocols", lambda: scorer.protocols(suite.metrics, clips, frames)
            )
            guess = systems.seconds_per_clip(spec.adapter, system)
        except WeightsMissing as error:
            missing = str(error)
        except UnsupportedError as error:
            unsupported = str(error)
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
            unsupported=unsupported,
            protocols=protocols,
            prompts=prompts,
            seeds=suite.seeds,
            predicted_seconds=guess * (timed if RANDOM_WEIGHTS in flags else clips + timed),
            flags=flags,
            sources_sha256=sources,
        )

    @classmethod
    def refused(
        cls,
        name: str,
        spec: SystemSpec,
        point: dict[str, Knob],
        prompts: Prompts,
        suite: Suite,
        sources: str | None,
        error: Exception,
    ) -> Self:
        """A setting that the system itself refuses: a row like any other, whose outcome is known."""
        question = {"adapter": spec.adapter, "point": point, "prompts": prompts.sha256, "seeds": suite.seeds}
        missing = isinstance(error, WeightsMissing)
        return cls(
            id=digest(question),
            system=name,
            adapter=spec.adapter,
            role=spec.role,
            knobs=point,
            shown=tuple(point),
            weights_sha256=None,
            weights_missing=str(error) if missing else None,
            unsupported=None if missing else str(error),
            protocols={},
            prompts=prompts,
            seeds=suite.seeds,
            predicted_seconds=0.0,
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
