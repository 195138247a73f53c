"""Claims (d): what each number of steps makes, and what is asked of the shipped student.

The table has more rows than decide: `controls`, and students that no claim is about.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.claims.items import Evaluate, Item, Train, ask_model, knobs_of, unique
from bench.claims.runs import EULER, METHODS, STEPS, STUDENT, TABLE_METRICS, TEACHER, Scale, distilled
from bench.claims.verdicts import Answers, Three
from bench.records import Knob, StepRow
from bench.trials import Sample

STEP_COUNTS = (1, 2, 4, 8, 16, 28, 56)
TASK = "image to video"
FEW = tuple(steps for steps in STEP_COUNTS if steps <= 8)
"""What students are asked for."""
SOLVED = ("unipc", (4, 8))
"""The teacher by a solver of second order, for as many passes: the one that 256 validation prompts liked best of four,
and the numbers of steps that it is asked for. Its first step is Euler's."""
OTHERS = {"lab-student-p42": TASK, "lab-student-t2v": "text to video at once"}
"""Shipped students beside `STUDENT`, and the task of each."""
TUNED = dict.fromkeys(STEP_COUNTS, (3.0, 1.0))
"""Guidance and shift of the teacher at so many Euler steps, by fvd-world from true first frames of 256 validation
prompts (`tune.yaml`; docs/distillation.md has the table). Claims a, c and d4 ask it by `EULER`, which was chosen with
older weights."""
DECIDING = ((TEACHER, STEPS), (TEACHER, 56), (STUDENT, STEPS))
"""Models and steps whose trials decide about the shipped student."""
PROTOCOL = (
    "Image to video from true first frames, `lab-student-t2v` text to video at once; unseen test prompts, 95 % "
    "intervals. Passes are those of the transformer for a clip; what they take is measured by the bench (`lab.yaml`, "
    "`lab-full.yaml`). Rows that name samples are controls outside every verdict: one seed of a1's recipe, its last "
    "snapshot, started from the teacher (guidance 2) without guidance distilled first, at shift 3 (`cfg`: Euler's "
    "method, shift 1). DMD and DMD2 spend two thirds of the samples on the critic. The shipped students were trained "
    "longer, and otherwise: their cards say how"
)


def _knobs(model: str, steps: int, settings: Mapping[int, tuple[float, float]] = TUNED) -> dict[str, Knob]:
    guidance, shift = settings[steps] if model == TEACHER else (1.0, None)
    return knobs_of(OTHERS.get(model, TASK), steps, guidance, shift, model)


def table_trial(scale: Scale, model: str, steps: int, start: int = 0, solver: str | None = None) -> Evaluate:
    """start: number of the first test prompt. solver: other than the one that came with the model."""
    sample = Sample(split="test", start=start, prompts=scale.table_prompts)
    given = OTHERS.get(model, TASK) == TASK  # a first frame, to be faithful to
    metrics = tuple(name for name in TABLE_METRICS if given or name != "first-frame-psnr")
    name = f"{model} at {steps}" + (f", prompts from {start} on" if start else "")
    knobs = _knobs(model, steps)
    if solver is not None:
        name, knobs["solver"] = f"{name}, {solver}", solver
    return ask_model(name, knobs, sample, metrics=metrics)


def controls(scale: Scale) -> list[tuple[str, Train, Evaluate]]:
    """Every method with the recipe and the samples of a1: (method, training, trial of what it ends with)."""
    found = []
    sample = Sample(split="test", prompts=scale.table_prompts)
    for method in METHODS:
        run = distilled(scale, ["image-to-video"], 0, scale.distilled, method=method)
        # Every other method samples with fresh noise, at the shift that it learned with.
        name, knobs = f"{run.name} at {STEPS}", knobs_of(TASK, STEPS, 1.0, 1.0 if method == "cfg" else None)
        last = scale.snapshots - 1
        trial = ask_model(name, knobs, sample, run.name, last, TABLE_METRICS)
        found.append((method, run, trial))
    return found


def solved(scale: Scale) -> list[Evaluate]:
    solver, counts = SOLVED
    return [table_trial(scale, TEACHER, steps, solver=solver) for steps in counts]


def against_solver(scale: Scale, fresh: bool = False) -> tuple[Evaluate, Evaluate]:
    """The teacher by `SOLVED` at as many steps as the student, and the student; fresh: as in `deciding`."""
    start = _fresh(scale) if fresh else 0
    solved = table_trial(scale, TEACHER, STEPS, start, SOLVED[0])
    return solved, table_trial(scale, STUDENT, STEPS, start)


def against_solver_names(scale: Scale, fresh: bool = False) -> tuple[str, str]:
    solved, student = against_solver(scale, fresh)
    return solved.name, student.name


def step_table(scale: Scale) -> list[Item]:
    """Of which only `DECIDING` decides anything; the rest is shown beside d1."""
    table = [
        *(table_trial(scale, TEACHER, steps) for steps in STEP_COUNTS),
        *solved(scale),
        *(table_trial(scale, model, steps) for model in (STUDENT, *OTHERS) for steps in FEW),
        *(item for _, run, trial in controls(scale) for item in (run, trial)),
    ]
    return unique(table)


def step_rows(scale: Scale, answers: Answers) -> tuple[StepRow, ...]:
    """What is answered of the step table, in its order."""
    said = f"{scale.distilled:,} samples"
    asked = [(TEACHER, table_trial(scale, TEACHER, steps)) for steps in STEP_COUNTS]
    asked += [(TEACHER, trial) for trial in solved(scale)]
    asked += [(model, table_trial(scale, model, steps)) for model in (STUDENT, *OTHERS) for steps in FEW]
    asked += [(f"{method}, {said}", trial) for method, _, trial in controls(scale)]
    rows = []
    for model, trial in asked:
        if (answer := answers.get(trial.name)) is not None:
            steps, guided = int(trial.knobs["num_inference_steps"] or 0), trial.knobs["guidance_scale"] != 1
            passes, task = steps * (1 + guided), str(trial.knobs["task"])
            solver = trial.knobs.get("solver")
            rows.append(
                StepRow(
                    model=model,
                    solver=None if solver is None else str(solver),
                    task=task,
                    steps=steps,
                    passes=passes,
                    scores=answer.scores,
                )
            )
    return tuple(rows)


def spread_trial(scale: Scale, model: str, steps: int) -> Evaluate:
    prompts, seeds = scale.spread
    # Where nothing varies has no say: the ends of two laws of five are known, so more prompts are asked than count.
    sample = Sample(split="test", start=scale.table_prompts, prompts=2 * prompts, seeds=seeds)
    return ask_model(f"spread of {model} at {steps}", _knobs(model, steps, EULER), sample, ends=True)


def spread_items(scale: Scale) -> list[Item]:
    return [spread_trial(scale, TEACHER, 56), spread_trial(scale, STUDENT, STEPS)]


def _fresh(scale: Scale) -> int:
    return scale.table_prompts + 2 * scale.spread[0]


def deciding(scale: Scale, fresh: bool = False) -> list[Item]:
    """The trials of `DECIDING`; fresh: on test prompts that come after all others that claims d ask."""
    start = _fresh(scale) if fresh else 0
    return [table_trial(scale, model, steps, start) for model, steps in DECIDING]


def deciding_names(scale: Scale, fresh: bool = False) -> Three:
    few, many, student = (trial.name for trial in deciding(scale, fresh))
    return few, many, student


def table_sample(scale: Scale) -> str:
    return f"{scale.table_prompts} test prompts"
