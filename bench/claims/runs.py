"""What the claims need to have run: trainings, trials, and the curves that they make up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bench.claims.curves import Lines
from bench.claims.items import PIPELINE, TIME_OF, Evaluate, Item, Train, ask_model, knobs_of, training_minutes
from bench.records import Knob
from bench.trials import QUALITY, Sample

TEACHER = "lab"
STUDENT = "lab-student"
GUIDANCE, SHIFT = 2.0, 3.0
"""Of distillation: the guidance of the teacher, and the shift of the student's times."""
EULER = dict.fromkeys((1, 2, 4), (3.0, 1.0)) | dict.fromkeys((8, 16, 28, 56), (2.0, 1.0))
"""Guidance and shift of the teacher at so many Euler steps in claims a, c and d4, chosen with older weights by
fvd-world on 128 validation prompts, text to image to video: guidance 3 at 2 and 4 steps, 2 at 8 and 16; at 56 they had
3.51 and 3.56. Only at 2 steps do they differ by more than their intervals (0.7 either side). Shifts 1 and 3 were
compared at 4 steps; 1 and 28 have their neighbours' setting. `steps.TUNED` is what suits the present weights."""
STEPS = 4
METHODS = ("dmd2", "dmd", "trajectory", "consistency", "cfg")
TABLE_METRICS = (
    *QUALITY,
    "kvd-world",
    *(f"accuracy-{name}" for name in ("colour", "shape", "size", "background", "tone", "hue", "texture")),
    *(f"accuracy-{name}" for name in ("motion", "direction", "camera")),
    "flickering",
    "first-frame-psnr",
    "clip-world",
)
"""Scores of the step table; those that decide come first."""
TASKS = {"image-to-video": "image to video", "text-to-video": "text to video at once"}
"""Training tasks, and how the adapter calls what is then asked."""
Dial = tuple[float, bool]
"""(share of hidden factors that captions state, whether events occur)."""
DIALS: tuple[Dial, ...] = ((0.0, True), (0.5, True), (1.0, True), (0.0, False))
DIAL_RATE = 0.3
"""Factor on the learning rates with which `TEACHER` learns the words that its own captions never had."""
ALTERNATING_SHARE = 168 / 172
"""Samples of an alternating run that cost as many training FLOPs as those of text to video: tokens a nominal sample are
24 + 144 for text to video, and (16 + 24 + 144 + 4 (24 + 16)) / 2 where image to video and four images take turns. Other
costs are proportional to tokens: at this length the attention matrix is under a tenth of a pass."""
TRAINING_GFLOP = {"image-to-video": 14.2, "text-to-video": 12.7, "text-to-image": 3.1}
"""Of DMD2, a sample, updates of student and critic in their turns, as PyTorch counts them for `lab` and captions of 24
tokens. Of an alternating run a nominal sample has half of one of image to video, and half of four of text to image, so
13.3: by this count, finer than `ALTERNATING_SHARE`, a2's alternating runs had 2 % more than those of text to video."""


@dataclass(frozen=True)
class Scale:
    """How large the experiments are. `distilled`, `primed`, `images`: samples of a training of each kind; `dialled`: of
    that of the teacher which knows all settings of the dial.

    prompts: of a point of a curve. anchors: prompts of the teacher's trials that a curve is measured by. budget: most
    minutes of one training run.
    """

    name: Literal["quick", "full"]
    seeds: int
    snapshots: int
    distilled: int
    primed: int
    images: int
    dialled: int
    stored: int
    prompts: int
    anchors: int
    table_prompts: int
    spread: tuple[int, int]
    budget: float


FULL = Scale("full", 3, 4, 8_000, 16_000, 40_000, 80_000, 16_000, 256, 512, 2048, (64, 16), 240.0)
"""What two cores do in a day. Five to eight times the samples were planned first, and none of that was run."""
QUICK = Scale("quick", 3, 1, 480, 4_000, 16_000, 4_000, 2_048, 192, 64, 64, (8, 4), 6.0)
"""Meant to show a direction in 20 minutes on two cores: of b2, whose curves of the full scale differ from 4,000 clips
on. A distillation that short shows nothing, and parts of the prior differ by less than their intervals after 2,400
clips, or without pictures first. The seeds share those pictures, which take as long as a run."""


def distilled(
    scale: Scale,
    tasks: Sequence[str],
    seed: int,
    samples: int,
    dial: Dial | None = None,
    method: str = METHODS[0],
) -> Train:
    teacher = dial_teacher(scale) if dial else None
    source = f"{{{teacher.name}}}/{PIPELINE}" if teacher else TEACHER
    words = ["distill", method, *(word for task in tasks for word in ("--task", task)), "--teacher", source]
    words += [
        "--steps",
        str(STEPS),
        "--guidance",
        f"{GUIDANCE:g}",
        "--shift",
        f"{SHIFT:g}",
        "--seed",
        str(seed),
    ]
    words += ["--samples", str(samples), "--budget", f"{scale.budget:g}", "--snapshots", str(scale.snapshots)]
    words += ["--stored", str(scale.stored), *_dial_words(dial)]
    name = f"{method}-{'+'.join(tasks)}-{samples}-{_dial_name(dial)}-seed{seed}"
    needs = (teacher.name,) if teacher else ()
    return Train(name, tuple(words), TIME_OF[method] * training_minutes("distill", samples), needs)


def dial_teacher(scale: Scale) -> Train:
    """`TEACHER`, after it has learned the words that state hidden factors: it was trained on captions without them."""
    words = ["i2v", "--initial", TEACHER, *_all_stated(), "--rate", f"{DIAL_RATE:g}"]
    words += ["--samples", str(scale.dialled), "--budget", f"{scale.budget:g}", "--stored", str(scale.stored)]
    name = f"teacher-of-the-dial-{scale.dialled}"
    return Train(name, tuple(words), training_minutes("i2v", scale.dialled), packed=True)


def primed(scale: Scale, kind: str, seed: int, samples: int, dial: Dial | None = None) -> list[Train]:
    """Image to video with a part of the prior, after the text-to-image training that all parts of a seed (of a quick
    run: of every seed) start from. With a dial, that knows the captions of all its settings.
    """
    name = f"prior-{kind}-{samples}-{_dial_name(dial)}-seed{seed}"
    words = ["prior", kind, "--seed", str(seed), "--samples", str(samples), "--budget", f"{scale.budget:g}"]
    words += ["--snapshots", str(scale.snapshots), "--stored", str(scale.stored), *_dial_words(dial)]
    shown = 0 if scale.name == "quick" else seed
    start = f"t2i-{scale.images}{'-dial' if dial else ''}-seed{shown}"
    image = ["t2i", "--seed", str(shown), "--samples", str(scale.images), "--budget", f"{scale.budget:g}"]
    image += ["--stored", str(scale.stored), *(_all_stated() if dial else ())]
    first = Train(start, tuple(image), training_minutes("t2i", scale.images))
    words += ["--initial", f"{{{start}}}/t2i/denoiser.pt"]
    return [first, Train(name, tuple(words), training_minutes("prior", samples), (start,))]


def _dial_words(dial: Dial | None) -> list[str]:
    stated, events = dial or DIALS[0]
    return ["--stated", f"{stated:g}", "--events" if events else "--no-events"]


def _dial_name(dial: Dial | None) -> str:
    """Of a run. The world's own setting is another run where all settings are compared: of another start."""
    stated, events = dial or DIALS[0]
    return f"{'dial-' if dial else ''}stated{stated:g}-events{int(events)}"


def _all_stated() -> list[str]:
    return [word for stated in sorted({dial[0] for dial in DIALS}) for word in ("--stated", f"{stated:g}")]


def curve(scale: Scale, run: Train, knobs: dict[str, Knob], dial: Dial | None = None) -> list[Evaluate]:
    """A trial of every snapshot of `run`."""
    return [
        ask_model(f"{run.name}@{k + 1}", knobs, _validation(scale.prompts, dial), run.name, k)
        for k in range(scale.snapshots)
    ]


def anchors(scale: Scale, task: str, dial: Dial | None = None) -> tuple[Evaluate, Evaluate]:
    """The teacher at as few Euler steps as the student has, and at as many as it should be as good as."""
    few, many = (_anchor(scale, task, steps, dial) for steps in (STEPS, 56))
    return few, many


def anchors_from_start(scale: Scale, tasks: Sequence[str], asked: str) -> list[Item]:
    """The student before its first update, and the teacher at 56 steps with guidance 2 and 3."""
    # Of one update, which is the critic's: the student is still the teacher, and is asked as a student is.
    run = distilled(replace(scale, stored=64, snapshots=1), tasks, 0, samples=1)
    start = ask_model(
        f"{run.name}@1", knobs_of(asked, STEPS, 1.0), _validation(scale.anchors, None), run.name
    )
    with_three = knobs_of(asked, 56, 3.0, 1.0, TEACHER)
    other = ask_model(f"teacher at 56, {asked}, guidance 3", with_three, _validation(scale.anchors, None))
    return [run, start, _anchor(scale, asked, 56, None), other]


def _anchor(scale: Scale, task: str, steps: int, dial: Dial | None) -> Evaluate:
    sample = _validation(scale.anchors, dial)
    said = f"{task}, stated {sample.stated:g}, events {sample.events}"
    if dial is None:
        return ask_model(f"teacher at {steps}, {said}", knobs_of(task, steps, *EULER[steps], TEACHER), sample)
    of = dial_teacher(scale).name
    return ask_model(f"{of} at {steps}, {said}", knobs_of(task, steps, *EULER[steps]), sample, of, None)


def _validation(prompts: int, dial: Dial | None) -> Sample:
    stated, events = dial or DIALS[0]
    return Sample(split="validation", prompts=prompts, stated=stated, events=events)


def progress(
    scale: Scale,
    tasks: Sequence[str],
    asked: str,
    seeds: int,
    samples: int,
    dial: Dial | None = None,
    from_start: bool = False,
) -> Lines:
    """Curves of the remaining gap, one a seed, and the items that they rest on.

    from_start: that gap begins where the student does, and not at the teacher of as few Euler steps; without a dial.
    """
    assert not (from_start and dial), "the start of the dial's students is not asked"
    between: Sequence[Item] = (
        anchors_from_start(scale, tasks, asked) if from_start else anchors(scale, asked, dial)
    )
    runs = [distilled(scale, tasks, seed, samples, dial) for seed in range(seeds)]
    curves = [curve(scale, run, knobs_of(asked, STEPS, 1.0), dial) for run in runs]
    return Lines(
        name=" + ".join(tasks),
        items=[
            *([dial_teacher(scale)] if dial else []),
            *between,
            *_each_with_its_trials([[run] for run in runs], curves),
        ],
        curves=[[trial.name for trial in one] for one in curves],
        anchors=tuple(trial.name for trial in between if isinstance(trial, Evaluate)),
        samples=samples,
        gflop=_training_gflop(tasks),
    )


def _each_with_its_trials(runs: Sequence[Sequence[Item]], trials: Sequence[Sequence[Item]]) -> list[Item]:
    return [item for pair in zip(runs, trials, strict=True) for part in pair for item in part]


def _training_gflop(tasks: Sequence[str]) -> float:
    """A nominal sample: tasks take turns, and a batch of images is four times as large."""
    costs = [TRAINING_GFLOP[task] * (4 if task == "text-to-image" else 1) for task in tasks]
    return sum(costs) / len(costs)


def convergence(scale: Scale, kind: str, seeds: int, samples: int, dial: Dial | None = None) -> Lines:
    """Curves of ln(1 + fvd-world), one a seed: a teacher in training has no start and end to be normalised by."""
    steps = 4 if scale.name == "quick" else 16
    runs = [primed(scale, kind, seed, samples, dial) for seed in range(seeds)]
    curves = [curve(scale, run[-1], knobs_of("image to video", steps, 1.0, 1.0), dial) for run in runs]
    return Lines(
        name=kind,
        items=_each_with_its_trials(runs, curves),
        curves=[[trial.name for trial in one] for one in curves],
        anchors=None,
        samples=samples,
    )
