"""The one training loop: every stage is a model, a function that gives its loss, and these settings.

Progress is counted in samples; with a budget in minutes, whichever ends first ends the run, and the learning rate
follows the same progress (warm-up, stable, decay), so that a five-minute run is a whole small training. A checkpoint
every few minutes, and at the end by a signal, holds all that a resumed run needs; the batch of step n is drawn from
(seed, n) alone.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from magic141 import resume
from magic141.errors import InputError, TrainingDiverged
from magic141.precision import native_bfloat16
from magic141.train.muon import Muon

Model = TypeVar("Model", bound=nn.Module)
Loss = Callable[[int, torch.Generator], dict[str, Tensor]]
"""(step, generator of this step) -> named loss terms; "loss" is minimised, the others are logged."""

DECAY = 0.3
"""Share of the run in which the learning rate falls to zero."""
PATIENCE = 10
"""Updates running without a finite gradient, after which a run has diverged."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long and how fast a stage trains. `muon_lr`, where it is set, is for matrices, `lr` for all else.

    snapshots: at so many evenly spaced points of the run its average is kept, the last of them at its end.
    compile: `torch.compile` the transformer (t2i, i2v and recover), where a compiler is.

    Raises InputError for a length or rate that is none.
    """

    out: Path
    samples: int
    batch_size: int
    lr: float
    muon_lr: float = 0.0
    budget_minutes: float = float("inf")
    warmup_steps: int = 200
    ema: float = 0.999
    clip_norm: float = 1.0
    seed: int = 0
    checkpoint_minutes: float = 3.0
    device: str = "cpu"
    snapshots: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("samples", "batch_size", "lr", "budget_minutes"):
            if not getattr(self, name) > 0:  # also of NaN
                raise InputError(f"{name}={getattr(self, name)} must be above 0: leave it out for the usual")
        if not (math.isfinite(self.lr) and 0 <= self.muon_lr < math.inf):
            raise InputError(f"lr={self.lr}, muon_lr={self.muon_lr} must be finite: 1e-5 to 1e-2 are usual")


@dataclass
class Progressed:
    """What a run has seen so far; written into the model card."""

    step: int = 0
    samples: int = 0
    seconds: float = 0.0


def autocast(device: str = "cpu") -> torch.autocast:
    """Mixed precision where `device` multiplies bfloat16 natively; on other CPUs it would be far slower."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind != "cpu" or native_bfloat16())


def optimizers(model: nn.Module, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for weights of two axes and more, 64 wide and up, if `muon_lr` is set; AdamW for all else."""
    hidden: list[nn.Parameter] = []
    if settings.muon_lr:
        hidden = [p for p in model.parameters() if p.ndim > 1 and min(p.shape[0], p[0].numel()) >= 64]
    chosen = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in chosen and p.requires_grad]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.01)
    ]
    if hidden:
        found.append(Muon(hidden, settings.muon_lr))
    return found


def averaged(model: nn.Module, ema: float) -> torch.optim.swa_utils.AveragedModel:
    """A moving average whose memory grows with the run, so that a short one does not remember its first weights."""

    def update(average: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        keep = min(ema, (1 + int(count)) / (10 + int(count)))
        for mean, value in zip(average, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - keep)
            else:
                mean.copy_(value)

    return torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=update, use_buffers=True)


def fit(
    model: Model,
    loss: Loss,
    settings: Settings,
    solvers: list[torch.optim.Optimizer] | None = None,
    keep: Callable[[Model, Progressed], None] | None = None,
) -> tuple[Model, Progressed]:
    """Train `model` in place, on the device of `settings`, and return the exponential moving average of its weights on
    the CPU, and what was seen. Generators are of the CPU, so that every device takes the same rows at the same times.

    Resumes from `settings.out / "checkpoint.pt"` where that exists; interrupting loses at most a few minutes. A resumed
    run may be longer, and on another device.
    The loss curve goes to `loss.jsonl` beside it, one line every ten steps; a term that a step lacks keeps its last.

    A run that has ended and is not made longer takes no step, and is returned as it was.

    solvers: where parts of the model learn in turns or at rates of their own; one without gradient stays as it is.
    keep: is given the average at each of `settings.snapshots` points, the last of them at the end.

    Raises InputError where the checkpoint is of another rate, batch size or seed, and TrainingDiverged after `PATIENCE`
    updates running that were left out because their gradient was not finite.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    path = settings.out / "checkpoint.pt"
    model.to(settings.device)
    average = averaged(model, settings.ema)
    solvers = optimizers(model, settings) if solvers is None else solvers
    rates = [group["lr"] for solver in solvers for group in solver.param_groups]
    seen, kept = Progressed(), 0
    asked = {name: getattr(settings, name) for name in ("lr", "muon_lr", "batch_size", "seed")}

    def done() -> float:
        return max(seen.samples / settings.samples, seen.seconds / 60 / settings.budget_minutes)

    if path.exists():
        saved = resume.read(path, settings.device)
        _check_same(saved.get("asked"), asked, path)
        try:
            model.load_state_dict(saved["model"])
            average.load_state_dict(saved["average"])
            for solver, state in zip(solvers, saved["solvers"], strict=True):
                solver.load_state_dict(state)
            seen = Progressed(**saved["seen"])
            # Of a run made longer, the points of its new length that lie behind it.
            kept = min(saved["kept"], int(min(done(), 1.0) * settings.snapshots))
        except resume.DAMAGED as error:
            raise resume.damaged(path, error) from error
    curve = settings.out / "loss.jsonl"
    resume.rewind(curve, seen.step)

    def save() -> None:
        state = {
            "model": model.state_dict(),
            "average": average.state_dict(),
            "solvers": [solver.state_dict() for solver in solvers],
            "seen": vars(seen),
            "kept": kept,
            "asked": asked,
        }
        resume.write(state, path)

    first = seen.step
    started, last_save = time.monotonic() - seen.seconds, time.monotonic()
    last_terms, lost = dict[str, Tensor](), 0
    model.train()
    with _bar(settings.out.name) as show, curve.open("a") as log, resume.unbroken_steps() as stopped:
        while True:
            if seen.step > first:
                seen.seconds = time.monotonic() - started
            share = min(done(), 1.0)
            if keep is not None and int(share * settings.snapshots) > kept:
                keep(cast(Model, average.module), seen)
                kept = int(share * settings.snapshots)
            if share == 1:
                break
            scale = min((seen.step + 1) / settings.warmup_steps, (1 - share) / DECAY, 1.0)
            groups = [group for solver in solvers for group in solver.param_groups]
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate * scale
            generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + seen.step)
            terms = loss(seen.step, generator)
            terms["loss"].backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
            if norm.isfinite():
                for solver in solvers:
                    solver.step()
                average.update_parameters(model)
                last_terms |= terms
                lost = 0
            elif (lost := lost + 1) == PATIENCE:
                raise TrainingDiverged(
                    f"{settings.out.name}: gradients were not finite {PATIENCE} times running, the last time at step "
                    f"{seen.step:,} with a loss of {terms['loss'].item():g}: try lower learning rates; "
                    f"{path} is from before"
                )
            for solver in solvers:
                solver.zero_grad()
            seen.step += 1
            seen.samples += settings.batch_size
            if seen.step % 10 == 0 and last_terms:
                values = {name: round(value.item(), 5) for name, value in last_terms.items()}
                log.write(json.dumps(vars(seen) | values) + "\n")
                log.flush()
                show(share, seen, values)
            if time.monotonic() - last_save > settings.checkpoint_minutes * 60:
                save()
                last_save = time.monotonic()
            if stopped():
                break
        save()
    return cast(Model, average.module.cpu()), seen


def _check_same(saved: dict[str, float] | None, asked: dict[str, float], path: Path) -> None:
    if saved is None:
        raise InputError(
            f"{path} is of an older version, which did not say of what run: train in another folder"
        )
    for name, value in asked.items():
        if saved[name] != value:
            raise InputError(
                f"{path} is of a run with {name}={saved[name]:g}, and {value:g} is asked: ask for the same, or train "
                "in another folder"
            )


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Callable[[float, Progressed, dict[str, float]], None]]:
    columns = (TextColumn(name), BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(name, total=1.0, text="")

        def show(done: float, seen: Progressed, values: dict[str, float]) -> None:
            speed = seen.samples / max(seen.seconds, 1e-9)
            terms = "  ".join(f"{key} {value:.4f}" for key, value in values.items())
            progress.update(task, completed=done, text=f"{seen.samples:,} samples  {speed:.0f}/s  {terms}")

        yield show
