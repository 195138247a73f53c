"""What can be run for a claim, a training or a trial, and about how many minutes it takes.

Costs are estimates from what such items took on two cores that multiply bfloat16 natively (a Xeon, Sapphire Rapids).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bench.records import Knob, digest
from bench.trials import QUALITY, Sample

PIPELINE = "pipeline"
TRAINED_A_MINUTE = {"distill": 900.0, "prior": 2500.0, "i2v": 2500.0, "t2i": 5200.0}
"""Samples, on those cores; what a plan's minutes rest on. Of t2i with its pictures encoded, which take a third of it;
distill was not run there: a sample of it takes three times the passes of one of prior. One of i2v is taken for one of
prior."""
TIME_OF = {"dmd2": 1.0, "dmd": 0.62, "trajectory": 6.2, "consistency": 0.52, "cfg": 0.44}
"""What training by a method takes, in shares of DMD2: measured, one core of a Zen 5. Trajectory regression makes 32
guided steps of the teacher for every batch."""
PASS_GFLOP, CLIP_GFLOP, GFLOP_A_MINUTE = 1.63, 6.0, 12_000.0


@dataclass(frozen=True)
class Train:
    """`python -m magic141.train WORDS`, in a folder that all trainings of a store share. needs: names of trainings.

    packed: whether a pipeline is made of it, `PIPELINE` in its folder, for others to learn from.
    """

    name: str
    words: tuple[str, ...]
    minutes: float
    needs: tuple[str, ...] = ()
    packed: bool = False

    @property
    def id(self) -> str:
        return digest({"train": self.words, "name": self.name})


@dataclass(frozen=True)
class Evaluate:
    """A trial of a preset, or of the `snapshot`-th model that the training `of` kept; without one, of its pipeline."""

    name: str
    knobs: dict[str, Knob]
    sample: Sample
    minutes: float
    of: str | None = None
    snapshot: int | None = 0
    metrics: tuple[str, ...] = QUALITY
    ends: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.of,) if self.of else ()

    @property
    def id(self) -> str:
        """Without the weights: a store belongs to one teacher, and says which."""
        asked = {"knobs": self.knobs, "of": self.of, "snapshot": self.snapshot, "ends": self.ends}
        return digest({"evaluate": asked, "sample": self.sample.model_dump(), "metrics": self.metrics})


Item = Train | Evaluate


def ask_model(
    name: str,
    knobs: Mapping[str, Knob],
    sample: Sample,
    of: str | None = None,
    snapshot: int | None = 0,
    metrics: tuple[str, ...] = QUALITY,
    ends: bool = False,
) -> Evaluate:
    passes = int(knobs["num_inference_steps"] or 0) * (1 if knobs["guidance_scale"] == 1 else 2)
    clips = sample.prompts * sample.seeds
    minutes = 0.3 + clips * (CLIP_GFLOP + PASS_GFLOP * passes) / GFLOP_A_MINUTE
    return Evaluate(name, dict(knobs), sample, minutes, of, snapshot, () if ends else metrics, ends)


def knobs_of(
    task: str, steps: int, guidance: float, shift: float | None = None, model: str | None = None
) -> dict[str, Knob]:
    found: dict[str, Knob] = {
        "task": task,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "shift": shift,
    }
    return found if model is None else {"model": model, **found}


def training_minutes(stage: str, samples: int) -> float:
    return 0.5 + samples / TRAINED_A_MINUTE[stage]


def unique(items: Iterable[Item]) -> list[Item]:
    """Each item once, in order: experiments share runs."""
    return list({item.name: item for item in items}.values())
