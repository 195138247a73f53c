"""`bench select`: which of several checkpoints is the best student, by one score that was fixed before any was seen.

Distillation is not judged by its loss, which falls while motion freezes. Candidates answer the same prompts of the
validation split, never of the test split, and each is given a cost, in nats:

    quality     ln((1 + F) / (1 + F_ref))    F: fvd-world, 0 where it is below its floor
    attributes  10 max(0, A_ref - A)         A: accuracy-mean; 10 points of it cost 1
    motion      |ln M|                       M: motion-ratio to truth, 1 is best
    diversity   max(0, -ln D)                D: pooled variance of final positions over the reference's

so that half the motion, half the diversity and 7 points of attributes cost the same 0.69, as twice the distance does
where it is large. The least sum is chosen. The reference is the teacher with many steps. Answers are kept beside the
choice: the same command resumes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from bench import jsonl, tables, trials
from bench.errors import RunError
from bench.folders import exclusive
from bench.records import Knob, write_atomically
from bench.trials import Question, Sample, Trial, positions, value
from magic141.errors import InputError, Magic141Error
from magic141.weights import INDEX

FORMULA = "ln((1 + F) / (1 + F_ref)) + 10 max(0, A_ref - A) + |ln M| + max(0, -ln D)"
LEAST = 1e-3
"""Ratios are not taken to be smaller: a still picture costs 7 nats, not infinitely many."""
CHOICE, ANSWERS = "selection.json", "selection.jsonl"

Ask = Callable[[Question], Trial]


def setting(task: str, steps: int, guidance: float, shift: float | None) -> dict[str, Knob]:
    """Knobs beside the model, as the adapter of the lab calls them."""
    return {"task": task, "num_inference_steps": steps, "guidance_scale": guidance, "shift": shift}


@dataclass(frozen=True)
class Options:
    """How candidates are asked: `knobs` beside the model, prompts for quality, prompts x seeds for diversity."""

    knobs: dict[str, Knob]
    reference: dict[str, Knob]
    prompts: int = 256
    spread_prompts: int = 64
    seeds: int = 8

    def questions(self, knobs: dict[str, Knob]) -> tuple[Question, Question]:
        """Of quality and of diversity, on scenes apart."""
        quality = Sample(split="validation", prompts=self.prompts)
        spread = Sample(split="validation", start=self.prompts, prompts=self.spread_prompts, seeds=self.seeds)
        return Question(knobs, quality), Question(knobs, spread, metrics=(), ends=True)


def execute(given: Sequence[Path], options: Options, out: Path, console: Console) -> None:
    """Asks the candidates in `given` and prints the choice.

    Raises what `candidates` and `select` do, and RunError where another process holds `out`.
    """
    paths = candidates(given)
    with exclusive(out):
        choice = select(paths, options, out, trials.ask, console.print)
    console.print(tables.selection(choice))
    console.print(f"chosen: {choice['chosen']}; {out / CHOICE}", soft_wrap=True, highlight=False)


def candidates(given: Sequence[Path]) -> list[Path]:
    """Pipeline folders as they are; of a run its snapshots and its student. Raises RunError for anything else."""
    found: list[Path] = []
    for path in given:
        if (path / INDEX).is_file():
            found.append(path)
            continue
        inside = sorted(index.parent for index in path.glob(f"snapshots/[0-9]*/{INDEX}"))
        inside += [path / "student"] if (path / "student" / INDEX).is_file() else []
        if not inside:
            raise RunError(f"{path} is neither a pipeline folder nor a run with snapshots or a student")
        found += inside
    if not found:
        raise RunError("no candidate is named: give runs or pipeline folders")
    return list(dict.fromkeys(found))


def terms(quality: Trial, spread: float, reference: Trial) -> dict[str, float]:
    """The parts of the cost by name, from a candidate's and the reference's answers, and its diversity D."""
    distance, reference_distance = (max(value(trial, "fvd-world"), 0.0) for trial in (quality, reference))
    lost = value(reference, "accuracy-mean") - value(quality, "accuracy-mean")
    return {
        "quality": math.log((1 + distance) / (1 + reference_distance)),
        "attributes": 10 * max(0.0, lost),
        "motion": abs(math.log(max(value(quality, "motion-ratio"), LEAST))),
        "diversity": max(0.0, -math.log(max(spread, LEAST))),
    }


def select(
    paths: Sequence[Path], options: Options, out: Path, ask: Ask, note: Callable[[str], None]
) -> dict[str, Any]:
    """Ask every candidate, write the choice to `out / CHOICE`, and return it.

    Raises RunError for what is no candidate, InputError where no candidate can be scored.
    """
    from evals.diversity import variance_ratio

    out.mkdir(parents=True, exist_ok=True)
    known = _answers(out / ANSWERS)

    def answer(question: Question) -> Trial:
        if question.id not in known:
            trial = ask(question)
            known[question.id] = trial
            jsonl.append(out / ANSWERS, trial.model_dump_json())
        return known[question.id]

    reference = [answer(question) for question in options.questions(options.reference)]
    scenes = reference[1].sample.scenes()
    rows = []
    for path in paths:
        note(f"asking {path}")
        row: dict[str, Any] = {"candidate": path.as_posix()}
        try:
            # By its absolute path: a bare name would be looked for among the presets first.
            knobs = {**options.knobs, "model": str(path.absolute())}
            quality, spread = (answer(question) for question in options.questions(knobs))
            row["weights_sha256"] = quality.weights_sha256
            row["scores"] = {name: score.model_dump() for name, score in quality.scores.items()}
            diversity = variance_ratio(positions(spread), positions(reference[1]), scenes)
            row["diversity"] = dict(zip(("value", "low", "high", "n"), diversity.ratio, strict=True))
            row["terms"] = terms(quality, diversity.ratio.value, reference[0])
            row["cost"] = sum(row["terms"].values())
        except Magic141Error as error:  # one that diverged must not hide the others
            row |= {"cost": None, "why": str(error)}
        rows.append(row)
    scored = [row for row in rows if row["cost"] is not None]
    if not scored:
        raise InputError(f"no candidate can be scored: {rows[0]['why']}")
    best = min(scored, key=lambda row: row["cost"])
    choice = {
        "chosen": best["candidate"],
        "cost": best["cost"],
        "formula": FORMULA,
        "split": "validation",
        "prompts": options.prompts,
        "spread": {"prompts": options.spread_prompts, "seeds": options.seeds},
        "knobs": options.knobs,
        "reference": options.reference,
        "candidates": sorted(rows, key=lambda row: math.inf if row["cost"] is None else row["cost"]),
    }
    write_atomically(out / CHOICE, json.dumps(choice, indent=1, default=str) + "\n")
    return choice


def _answers(path: Path) -> dict[str, Trial]:
    """What was answered before; a torn last line is dropped, and asked again."""
    try:
        trials = [Trial.model_validate_json(line) for line in jsonl.read(path)]
    except ValidationError as error:
        raise RunError(f"{path} cannot be read, delete it to ask again: {error}") from error
    return {trial.question: trial for trial in trials}
