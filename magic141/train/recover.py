"""Stage `recover`: a pruned transformer learns to say what the dense one says, which it was made from.

What is left is refitted first, layer by layer (`magic141.sparsify.refit`). Then distillation of the output alone, which
suffices where depth is kept (Muralidharan et al. 2024, arXiv 2407.14679): of velocities on stored latents, in the tasks
and at the times of stage `i2v`. The flow matching loss beside it keeps the data in sight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from magic141 import weights
from magic141.blocks import kept
from magic141.errors import InputError
from magic141.pipeline import Magic141Pipeline
from magic141.scheduler import FewStepScheduler, interpolate
from magic141.sparsify import CRITERIA, PRUNED, Sparsity, apply, parse
from magic141.sparsify.descent import kept_of
from magic141.sparsify.growth import give_back
from magic141.sparsify.importance import measure
from magic141.sparsify.structured import check_whole
from magic141.train import i2v
from magic141.train.calibrate import BATCHES, draw_times, first_batches, losses_on
from magic141.train.fields import Field, field, step_times
from magic141.train.flow import Batch, normal, worn
from magic141.train.folders import same_plan
from magic141.train.latents import CLIPS, IMAGES, LONG, WORLD, encode_sets
from magic141.train.loop import Progressed, Settings, autocast, fit
from magic141.train.resident import sampler_on
from magic141.train.student import named, store
from magic141.transformer import Magic141Transformer3DModel

FLOW = 0.1
"""Weight of the flow matching loss, where there is one."""
FOCUS = 6.0
"""Extra weight of latent cells that objects cover whole: they are a tenth of a frame, and their shapes a hundredth of
the cost. It may depend on x0, since what the dense model says does not: at any weight both agree at the least cost.
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is pruned and how it recovers.

    sparsity: "structured-0.5" or "blocks-0.25", as `magic141.sparsify.parse` reads it; `criterion` says which parts go,
        looked up on `calibration` batches.
    flow: weight of the flow matching loss. 0 for a student of few steps, whose velocities are not those of the data.
    steps: such a student's; its times are asked instead of all.
    initial: a pipeline of an earlier run of this stage to go on from instead of pruning, of the same sparsity or, of
        "structured", with fewer hidden units: then the best of those that it lacks come back.
    """

    sparsity: str = "structured-0.5"
    criterion: str = "taylor"
    calibration: int = BATCHES
    flow: float = FLOW
    steps: int | None = None
    initial: Path | None = None

    def __post_init__(self) -> None:
        ways = parse(self.sparsity)
        if len(ways) != 1 or ways[0].kind not in PRUNED:
            raise InputError(
                f"sparsity={self.sparsity!r} cannot be recovered: name one of {', '.join(PRUNED)} with its ratio; "
                "zeros would be trained away, and quantisation comes last (`magic141 sparsify`)"
            )
        if self.criterion not in CRITERIA:
            raise InputError(f"criterion={self.criterion!r} is unknown; use one of {', '.join(CRITERIA)}")
        for name, least in (("calibration", 1), ("flow", 0), ("steps", 1)):
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:  # also of NaN
                raise InputError(f"{name}={value} must be at least {least}, and finite")
        if self.steps is not None and self.flow:
            raise InputError(
                f"flow={self.flow:g} asks a student of {self.steps} steps for the velocities of the data, which it "
                "does not have: use 0"
            )


def run(plan: Plan, settings: Settings, latents: Path, dense: Path, stored: int) -> Progressed:
    """Prune the pipeline in `dense` and train what is left towards it; `settings.out` then holds `student`.

    Raises InputError: the folder holds the run of another plan, `dense` is pruned already, or is a student of few
    steps and `plan` does not say how many; what `plan` goes on from is of another sparsity, but for hidden units that
    it lacks.
    """
    told = vars(plan) | {"initial": plan.initial and weights.fingerprint(plan.initial)}
    asked = {**told, "seed": settings.seed, "dense": weights.fingerprint(dense)}
    pipe = Magic141Pipeline.from_pretrained(dense)
    few = isinstance(pipe.scheduler, FewStepScheduler)
    if few != (plan.steps is not None):
        says = "a student of few steps: say how many" if few else "none of few steps: leave them out"
        raise InputError(f"steps={plan.steps}: {dense.name} is {says}")
    check_whole(pipe.transformer)
    # Before anything is written or encoded for it.
    earlier = None if plan.initial is None else earlier_of(plan.initial, plan.sparsity, pipe.transformer)
    same_plan(settings.out, asked)
    vae, text_encoder = pipe.vae.to(settings.device), pipe.text_encoder.to(settings.device)
    sets = encode_sets(latents, (IMAGES, CLIPS, LONG), stored, WORLD, vae, text_encoder)
    sampler = sampler_on(settings.device, text_encoder, pipe.tokenizer)
    images, clips, long = (sets[spec.name] for spec in (IMAGES, CLIPS, LONG))
    batches = i2v.drawing(sampler, images, clips, long, settings.batch_size)
    fixed = step_times(plan.steps, pipe.scheduler.config.shift)[:-1] if plan.steps else None
    transformer = pipe.transformer.float().to(settings.device).requires_grad_(True)
    if earlier is None:
        pruned = pruned_of(plan, transformer, batches, fixed)
    else:
        pruned = grown(plan, earlier.to(settings.device), transformer, batches, fixed).requires_grad_(True)
    trained, seen = train(settings, batches, transformer, pruned, plan.flow, fixed)
    told |= {"initial": plan.initial and named(plan.initial)}
    facts = {"method": "recover", **told, "dense": named(dense), "size": _size(trained, transformer)}
    store(pipe, trained, pipe.scheduler, {**facts, **vars(seen)}, settings.out / "student")
    return seen


def pruned_of(
    plan: Plan, dense: Magic141Transformer3DModel, batches: i2v.Draw, fixed: Tensor | None
) -> Magic141Transformer3DModel:
    """A pruned and refitted copy of `dense`, its importance looked up on the first batches of all tasks."""
    ways = parse(plan.sparsity, plan.criterion, refit=True)
    shown = first_batches(batches, plan.calibration)
    pruned: Magic141Transformer3DModel = apply(dense, *ways, calibration=losses_on(shown, fixed))
    return pruned


def earlier_of(initial: Path, sparsity: str, dense: Magic141Transformer3DModel) -> Magic141Transformer3DModel:
    """The transformer of the pipeline `initial`, which lacks of `dense` what `sparsity` says, or more hidden units.

    Raises InputError where it differs in another way, or needs hidden units back and was not made of `dense`.
    """
    earlier = Magic141Pipeline.from_pretrained(initial).transformer.float()
    (way,) = parse(sparsity)
    blocks = dense.config.num_layers + dense.config.num_single_layers
    lacks, asked = _hidden_lost(earlier), _hidden_asked(way)
    for what, was, wanted in (
        ("pruned_ratio", earlier.config.pruned_ratio, way.ratio * (way.kind == "structured")),
        ("pruned_mlp_ratio", min(lacks, asked), asked),
        (
            "blocks pruned",
            len(earlier.config.pruned_blocks or ()),
            (blocks - kept(blocks, way.ratio)) * (way.kind == "blocks"),
        ),
    ):
        if was != wanted:
            raise InputError(
                f"--initial {initial.name} has {what}={was}, and sparsity={sparsity!r} asks for {wanted}: hidden units "
                "alone can be given back, and none be taken"
            )
    if lacks > asked:
        kept_of(dense, earlier)
    return earlier


def grown(
    plan: Plan,
    earlier: Magic141Transformer3DModel,
    dense: Magic141Transformer3DModel,
    batches: i2v.Draw,
    fixed: Tensor | None,
) -> Magic141Transformer3DModel:
    """`earlier` with as many hidden units as `plan` asks for, the best of those that it lacks."""
    asked = _hidden_asked(parse(plan.sparsity)[0])
    if _hidden_lost(earlier) == asked:
        return earlier
    shown = losses_on(first_batches(batches, plan.calibration), fixed)
    return give_back(dense, earlier, asked, measure(dense, plan.criterion, shown))


def _hidden_lost(model: Magic141Transformer3DModel) -> float:
    ratio, own = model.config.pruned_ratio, model.config.pruned_mlp_ratio
    return float(ratio if own is None else own)


def _hidden_asked(way: Sparsity) -> float:
    if way.kind != "structured":
        return 0.0
    return way.ratio if way.mlp_ratio is None else way.mlp_ratio


def train(
    settings: Settings,
    batches: i2v.Draw,
    dense: Magic141Transformer3DModel,
    pruned: Magic141Transformer3DModel,
    flow: float,
    fixed: Tensor | None = None,
) -> tuple[Magic141Transformer3DModel, Progressed]:
    """Train `pruned` in place towards `dense`; returns the average of its weights, and what it saw."""
    torch.manual_seed(settings.seed)
    dense.to(settings.device).requires_grad_(False).eval()
    if settings.compile:
        for model in (dense, pruned):
            model.compile(dynamic=False)

    def step_loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        batch = batches(step, generator)
        t = draw_times(len(batch.latents), i2v.SHIFT, fixed, generator)
        batch = _worn(batch, generator)
        with autocast(settings.device):
            fields = field(pruned, batch), field(dense, batch)
            return loss(*fields, batch.latents, batch.known, t, flow, generator, batch.cover)

    average, seen = fit(pruned, step_loss, settings)
    return average.eval(), seen


def loss(
    pruned: Field,
    dense: Field,
    x0: Tensor,
    known: int,
    t: Tensor,
    flow: float,
    generator: torch.Generator,
    cover: Tensor | None = None,
) -> dict[str, Tensor]:
    """Mean squares of `pruned - dense` and, with weight `flow`, `pruned - (eps - x0)`, over the unknown frames of
    x0 (B, 16, t, h, w) noised to times t (B,). The first is weighed by `FOCUS` where objects are, if `cover`, the share
    (B, t, H, W) of each cell that they cover, is given.
    """
    t = t.to(x0.device)
    eps = normal(x0, generator)
    x_t = interpolate(x0, eps, t)
    with torch.no_grad():
        aim = dense(x_t, t)
    v = pruned(x_t, t)
    distil, data = ((v - other)[:, :, known:].square().mean(1) for other in (aim, eps - x0))
    weight = torch.ones_like(distil)
    if cover is not None:
        weight += FOCUS * F.adaptive_avg_pool2d(cover, (x0.shape[-2], x0.shape[-1]))[:, known:]
    total = (weight * distil).sum() / weight.sum() + flow * data.mean()
    return {"loss": total, "distil": distil.detach().mean(), "flow": data.detach().mean()}


def _worn(batch: Batch, generator: torch.Generator) -> Batch:
    """`batch` with noise on its given frames, as in stage `i2v`: at generation they are generated, not true."""
    given, rest = batch.latents[:, :, : batch.known], batch.latents[:, :, batch.known :]
    return replace(batch, latents=torch.cat([worn(given, i2v.CONDITION_NOISE, generator), rest], dim=2))


def _size(pruned: torch.nn.Module, dense: torch.nn.Module) -> float:
    """The share of the parameters that is left."""
    count = [sum(parameter.numel() for parameter in model.parameters()) for model in (pruned, dense)]
    return round(count[0] / count[1], 3)
