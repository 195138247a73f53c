"""One model at one setting, asked many prompts and seeds in this process: its scores and how its clips spread.

What `select` and `claims` measure. It times nothing: latency is measured by `bench run`, each cell in a process alone.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from bench import prompts, systems
from bench.records import Frozen, Knob, Score, digest
from bench.scorers import LAB

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from magic141.data.world import Scene

ADAPTER = "bench.baselines.lab:Lab"
BATCH = 32
QUALITY = ("fvd-world", "accuracy-mean", "motion-ratio")
PROTOCOL = 1
"""Raised where the code changes what the same question answers, or what the same training command of a claim makes."""


class Sample(Frozen):
    """Which scenes of the lab world, and how many seeds of each; `stated`, `events`, `terse` are its dials."""

    split: Literal["train", "validation", "test", "compositional"]
    prompts: int
    seeds: int = 1
    start: int = 0
    stated: float = 0.0
    events: bool = True
    terse: bool = False

    @model_serializer(mode="wrap")
    def _as_before(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `terse` where it is off: questions that were asked before there was such a dial keep their ids."""
        written: dict[str, Any] = serialize(self)
        if not self.terse:
            written.pop("terse", None)
        return written

    def scenes(self) -> list[Scene]:
        from magic141.data.world import World

        world = World(stated=self.stated, events=self.events, terse=self.terse)
        return world.scenes(self.split, self.start, self.prompts)


class Trial(Frozen):
    """The scores of one model at one setting. `ends`: final positions (prompts, seeds, 2), null where not found."""

    question: str
    knobs: dict[str, Knob]
    weights_sha256: str | None
    sample: Sample
    scores: dict[str, Score]
    accuracy: tuple[float, ...] = Field((), description="accuracy-mean clip by clip, for pairs")
    ends: tuple[tuple[tuple[float | None, float | None], ...], ...] = ()
    seconds: float


@dataclass(frozen=True)
class Question:
    """What a trial asks. `id` names it together with the weights, so that an answer can be found again."""

    knobs: dict[str, Knob]
    sample: Sample
    metrics: tuple[str, ...] = QUALITY
    ends: bool = False

    @property
    def id(self) -> str:
        """Raises WeightsMissing, SuiteError."""
        system = systems.make(ADAPTER, self.knobs)
        asked = {name: value for name, value in systems.knobs_of(system).items() if name != "model"}
        return digest(
            {
                "knobs": asked,
                "weights": system.weights(),
                "sample": self.sample.model_dump(),
                "metrics": self.metrics,
                "ends": self.ends,
                "protocol": PROTOCOL,
            }
        )


def ask(question: Question) -> Trial:
    """Generate and score. Seeds are the outermost order, so that the first seed of all prompts comes first.

    Raises WeightsMissing, SuiteError, InvalidOutputError.
    """
    import numpy as np

    from bench.scorers import Scores
    from bench.systems import Output
    from evals.diversity import final_position

    clock = time.perf_counter()
    system = systems.make(ADAPTER, question.knobs)
    system.load()
    scenes = question.sample.scenes()
    requests = prompts.requests([(scene.caption(), scene) for scene in scenes], range(question.sample.seeds))
    frames, firsts, ends = [], [], np.full((len(requests), 2), np.nan)
    for start in range(0, len(requests), BATCH):
        batch = requests[start : start + BATCH]
        made = system.generate(batch, lambda _stage: nullcontext())
        systems.check_output(made, len(batch))
        if question.metrics:
            frames.append(made.frames)
            firsts += [] if made.first_frames is None else [made.first_frames]
        if question.ends:
            for place, (request, clip) in enumerate(zip(batch, made.frames, strict=True)):
                assert request.scene is not None
                ends[start + place] = final_position(clip, request.scene)
    scores: dict[str, Score] = {}
    accuracy: list[float] = []
    if question.metrics:
        whole = Output(np.concatenate(frames), np.concatenate(firsts) if firsts else None)
        found: Scores = LAB.score(whole, requests, question.metrics)
        scores = found.aggregate
        accuracy = [float(row["accuracy-mean"]) for row in found.per_sample]
    places = ends.reshape(question.sample.seeds, len(scenes), 2).swapaxes(0, 1)
    return Trial(
        question=question.id,
        knobs=systems.knobs_of(system),
        weights_sha256=system.weights(),
        sample=question.sample,
        scores=scores,
        accuracy=tuple(accuracy),
        ends=_plain(places) if question.ends else (),
        seconds=time.perf_counter() - clock,
    )


def positions(trial: Trial) -> NDArray[np.float64]:
    """Final positions (prompts, seeds, 2), NaN where none was found."""
    import numpy as np

    return np.array(trial.ends, dtype=np.float64)


def value(trial: Trial, metric: str) -> float:
    """A score of a trial. Raises InputError where it has none."""
    from magic141.errors import InputError

    score = trial.scores.get(metric)
    if score is None or score.value is None:
        why = "it was not asked for" if score is None else score.note
        raise InputError(f"the trial of {trial.knobs.get('model')} has no {metric}: {why}")
    return score.value


def _plain(places: NDArray[np.float64]) -> tuple[tuple[tuple[float | None, float | None], ...], ...]:
    def number(x: float) -> float | None:
        return None if x != x else round(float(x), 3)

    return tuple(tuple((number(x), number(y)) for x, y in row) for row in places)
