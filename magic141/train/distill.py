"""`distill METHOD`: the lab teacher's steps made fewer. Which data, models and losses each method takes.

Every method and every task takes this one path: a batch of stored latents of which 0, 1 or k first frames are given,
the teacher, and a student that starts from it. Each student is stored as a whole pipeline folder, so that whatever
takes `--model` takes it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from magic141 import weights
from magic141.conditioning import encode_ids, tokenize
from magic141.data.world import World
from magic141.errors import InputError
from magic141.pipeline import Magic141Pipeline
from magic141.scheduler import FewStepScheduler, FlowMatchScheduler
from magic141.train.cfg_distill import CfgDistillation
from magic141.train.consistency import ConsistencyDistillation
from magic141.train.dmd2 import Critic, Dmd2, Recipe
from magic141.train.fields import Text
from magic141.train.flow import Batch, Sampler
from magic141.train.folders import same_plan
from magic141.train.i2v import FRAMES, IMAGES_PER_CLIP
from magic141.train.latents import CLIPS, IMAGES, LONG, LatentSet, SetSpec, encode_sets
from magic141.train.loop import Progressed, Settings, autocast, fit
from magic141.train.method import Distillation
from magic141.train.resident import sampler_on
from magic141.train.student import named, store
from magic141.train.trajectory import TrajectoryRegression
from magic141.transformer import Magic141Transformer3DModel

STRIDE = 8
"""Steps of the teacher for one of the student, in trajectory regression."""
GRID = 32
"""Times between which consistency distillation compares neighbours."""
ADVERSARIAL = 0.01
"""Weight of DMD2's adversarial term; `dmd` goes without."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a batch holds: windows of `frames` latent frames, of which `known` to `most_known` are given."""

    source: SetSpec
    frames: int
    known: int = 0
    most_known: int = 0
    rows: int = 1
    """Times the batch size: a batch of images is larger than one of clips, because it has fewer tokens."""


TASKS = {
    "image-to-video": Task(source=CLIPS, frames=FRAMES, known=1, most_known=1),
    "text-to-video": Task(source=CLIPS, frames=FRAMES),
    "text-to-image": Task(source=IMAGES, frames=1, rows=IMAGES_PER_CLIP),
    "continuation": Task(source=LONG, frames=FRAMES, known=1, most_known=3),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is distilled. `tasks` take turns. `guidance`: w of the teacher, which the student then needs no more.

    stated, events, terse: of the world that clips are drawn from, see `magic141.data.world.World`.
    """

    method: str
    tasks: tuple[str, ...] = ("image-to-video",)
    steps: int = 4
    guidance: float = 2.0
    shift: float = 3.0
    critic_updates: int = 2
    stated: float = 0.0
    events: bool = True
    terse: bool = False

    def __post_init__(self) -> None:
        World(stated=self.stated, terse=self.terse)  # raises InputError
        for name, values, known in (("method", [self.method], METHODS), ("task", self.tasks, TASKS)):
            for value in values:
                if value not in known:
                    raise InputError(f"unknown {name} {value!r}: use {', '.join(known)}")
        if not self.tasks:
            raise InputError(f"no task is named: use {', '.join(TASKS)}")
        if self.steps < 1:
            raise InputError(f"steps={self.steps} must be at least 1: students have 1 to 8")
        if self.critic_updates < 1:
            raise InputError(f"critic_updates={self.critic_updates} must be at least 1: 2 to 5 are usual")
        for name, number, least in (("guidance", self.guidance, 0.0), ("shift", self.shift, 1e-3)):
            if not (math.isfinite(number) and number >= least):
                raise InputError(f"{name}={number} must be a finite number from {least:g}")

    def scheduler(self) -> FlowMatchScheduler:
        """The sampler that the student was made for. Its guidance is in the weights, so 1 is its default."""
        kind = FlowMatchScheduler if self.method == "cfg" else FewStepScheduler
        return kind(shift=self.shift, guidance_scale=1.0)


Transformers = tuple[Magic141Transformer3DModel, Magic141Transformer3DModel]
"""Student and teacher."""


def _cfg(models: Transformers, empty: Text, plan: Plan) -> Distillation:
    return CfgDistillation(*models, empty, guidance_scale=plan.guidance, shift=plan.shift)


def _trajectory(models: Transformers, empty: Text, plan: Plan) -> Distillation:
    return TrajectoryRegression(
        *models,
        empty,
        num_inference_steps=plan.steps,
        guidance_scale=plan.guidance,
        shift=plan.shift,
        stride=STRIDE,
    )


def _consistency(models: Transformers, empty: Text, plan: Plan) -> Distillation:
    return ConsistencyDistillation(*models, empty, guidance_scale=plan.guidance, shift=plan.shift, grid=GRID)


def _dmd(models: Transformers, empty: Text, plan: Plan, adversarial: float = 0.0) -> Distillation:
    student, teacher = models
    recipe = Recipe(
        num_inference_steps=plan.steps,
        shift=plan.shift,
        guidance_scale=plan.guidance,
        critic_updates=plan.critic_updates,
        adversarial=adversarial,
    )
    return Dmd2(student, Critic(copy.deepcopy(teacher).requires_grad_(True)), teacher, empty, recipe)


def _dmd2(models: Transformers, empty: Text, plan: Plan) -> Distillation:
    return _dmd(models, empty, plan, ADVERSARIAL)


METHODS: dict[str, Callable[[Transformers, Text, Plan], Distillation]] = {
    "cfg": _cfg,
    "trajectory": _trajectory,
    "consistency": _consistency,
    "dmd": _dmd,
    "dmd2": _dmd2,
}
"""How each is made of (student, teacher), the text without words, and the plan.

A method is a module that is trained and saved: the student, and whatever else learns beside it. Calling it gives the
loss terms of a step.
"""

Draw = Callable[[str, torch.Generator], Batch]
"""(task, generator of this step) -> batch."""


def run(
    plan: Plan, settings: Settings, latents: Path, teacher: Path, initial: Path | None, stored: int
) -> Progressed:
    """Distil the pipeline in `teacher`; the student starts from the one in `initial`, or from the teacher.

    `settings.out` then holds `student`, a pipeline folder, and the `snapshots/STEP` on the way to it.

    Raises InputError where that folder holds the run of another plan, which must not be resumed with this one, and for
    batches too small for all of the student's steps to be learned.
    """
    if plan.method == "trajectory" and settings.batch_size < plan.steps:
        raise InputError(
            f"batch_size={settings.batch_size}: a row learns one of {plan.steps} steps, so give at least as many rows"
        )
    device, folder = settings.device, settings.out
    pipe = Magic141Pipeline.from_pretrained(teacher)
    student = pipe.transformer if initial is None else Magic141Pipeline.from_pretrained(initial).transformer
    models = {"teacher": weights.fingerprint(teacher), "initial": initial and weights.fingerprint(initial)}
    same_plan(folder, {**vars(plan), "tasks": list(plan.tasks), "seed": settings.seed, **models})
    world = World(stated=plan.stated, events=plan.events, terse=plan.terse)
    specs = [TASKS[task].source for task in plan.tasks]
    sets = encode_sets(latents, specs, stored, world, pipe.vae.to(device), pipe.text_encoder.to(device))
    sampler = sampler_on(device, pipe.text_encoder, pipe.tokenizer, dropped=0.0)
    draw = drawing(sampler, sets, settings.batch_size)
    # All its tokens: `guided` takes as many as the batch's captions have.
    empty = encode_ids(pipe.text_encoder, tokenize(pipe.tokenizer, [""]), trim=False)

    facts = {**vars(plan), "initial": named(initial or teacher)}

    def keep(student: Magic141Transformer3DModel, seen: Progressed) -> None:
        kept = folder / "snapshots" / f"{seen.step:07d}"
        store(pipe, student, plan.scheduler(), {**facts, **vars(seen)}, kept)

    trained, seen = train(plan, settings, draw, (student, pipe.transformer), empty, keep)
    store(pipe, trained, plan.scheduler(), {**facts, **vars(seen)}, folder / "student")
    return seen


def train(
    plan: Plan,
    settings: Settings,
    draw: Draw,
    models: Transformers,
    empty: Text,
    keep: Callable[[Magic141Transformer3DModel, Progressed], None] | None = None,
) -> tuple[Magic141Transformer3DModel, Progressed]:
    """The average of the student, and what it saw. `models` (student, teacher) stay as they are; `keep`: see `fit`.

    Tasks take turns round by round, so that a critic and its student learn from the same.
    """
    torch.manual_seed(settings.seed)
    student, teacher = (copy.deepcopy(model).float() for model in models)
    teacher.to(settings.device)
    empty = (empty[0].to(settings.device).float(), empty[1].to(settings.device).float())
    method = METHODS[plan.method]((student.requires_grad_(True), teacher), empty, plan)

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        task = plan.tasks[step // method.turns % len(plan.tasks)]
        batch = draw(task, generator)
        with autocast(settings.device):
            terms: dict[str, Tensor] = method(step, batch, generator)
        return terms

    solvers = method.optimizers(settings.lr) if isinstance(method, Dmd2) else None

    def keep_student(average: Distillation, seen: Progressed) -> None:
        if keep is not None:
            keep(average.student, seen)

    average, seen = fit(method, loss, settings, solvers, keep_student)
    return average.student.eval(), seen


def drawing(sampler: Sampler, sets: dict[str, LatentSet], batch_size: int) -> Draw:
    """Batches of each task of `TASKS` whose set is in `sets`."""

    def draw(name: str, generator: torch.Generator) -> Batch:
        task = TASKS[name]
        known = int(torch.randint(task.known, task.most_known + 1, (), generator=generator))
        return sampler.draw(
            sets[task.source.name],
            task.rows * batch_size,
            generator,
            frames=task.frames,
            known=known,
            inside=task.source is LONG,
            image_tokens=known > 0,
        )

    return draw
