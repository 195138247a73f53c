"""`python -m magic141.train distill | recover | transplant`: students of few steps, and of fewer weights."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from magic141.train import ending
from magic141.train.folders import check_folder
from magic141.train.options import (
    CLIPS_STORED,
    BatchSize,
    Budget,
    Compile,
    Device,
    Events,
    Out,
    Samples,
    Seed,
    Stated,
    Stored,
    Terse,
    Threads,
    use,
)


class Method(StrEnum):
    cfg = "cfg"
    trajectory = "trajectory"
    consistency = "consistency"
    dmd = "dmd"
    dmd2 = "dmd2"


def distill(
    method: Annotated[
        Method, typer.Argument(help="What the student learns from; dmd2 adds its adversary to dmd.")
    ],
    task: Annotated[
        list[str],
        typer.Option(help="image-to-video, text-to-video, text-to-image, continuation; several take turns."),
    ] = ["image-to-video"],  # noqa: B006
    teacher: Annotated[str, typer.Option(help="A preset, a folder, or a hub repository.")] = "lab",
    steps: Annotated[int, typer.Option(help="Denoising steps of the student.")] = 4,
    guidance: Annotated[
        float, typer.Option(help="Guidance scale of the teacher; the student needs none.")
    ] = 2.0,
    shift: Annotated[float, typer.Option(help="Shift of the student's times.")] = 3.0,
    critic_updates: Annotated[int, typer.Option(help="dmd, dmd2: for each update of the student.")] = 2,
    initial: Annotated[
        str | None, typer.Option(help="Pipeline that the student starts from; unless given, the teacher.")
    ] = None,
    lr: Annotated[float, typer.Option(help="Learning rate of the student.")] = 5e-5,
    snapshots: Annotated[
        int, typer.Option(min=0, help="Students to keep on the way, for `bench select`.")
    ] = 8,
    name: Annotated[
        str | None, typer.Option(help="Of the run's folder in --out; the method unless given.")
    ] = None,
    out: Out = Path("runs"),
    budget: Budget = 60.0,
    samples: Samples = 1_000_000,
    threads: Threads = 0,
    seed: Seed = 0,
    device: Device = "cpu",
    batch_size: BatchSize = None,
    stored: Stored = CLIPS_STORED,
    stated: Stated = 0.0,
    terse: Terse = False,
    events: Events = True,
) -> None:
    """Train a student of few steps; resumes what --out holds of it."""
    from magic141 import weights

    check_folder(out / (name or method.value), "--out")
    folders = [None if source is None else weights.resolve(source) for source in (teacher, initial)]
    from magic141.train import distill as distillation
    from magic141.train.loop import Settings

    use(device, threads)
    plan = distillation.Plan(
        method=method.value,
        tasks=tuple(task),
        steps=steps,
        guidance=guidance,
        shift=shift,
        critic_updates=critic_updates,
        stated=stated,
        events=events,
        terse=terse,
    )
    settings = Settings(
        out=out / (name or method.value),
        samples=samples,
        batch_size=batch_size or 16,
        lr=lr,
        budget_minutes=budget,
        warmup_steps=50,
        ema=0.995,  # an update; with two of the critic for one of the student 0.985 of the latter
        seed=seed,
        device=device,
        snapshots=snapshots,
    )
    assert folders[0] is not None
    seen = distillation.run(plan, settings, out / "latents", folders[0], folders[1], stored)
    ending.leave(method.value, seen, settings.out, seed, device)


def recover(
    sparsity: Annotated[
        str,
        typer.Option(
            help="What is pruned: structured-0.5, structured-0.25-0.75 (heads, then hidden units), blocks-0.25."
        ),
    ] = "structured-0.5",
    criterion: Annotated[
        str, typer.Option(help="What makes a part important: magnitude, activation, taylor.")
    ] = "taylor",
    dense: Annotated[str, typer.Option(help="A preset, a folder, or a hub repository.")] = "lab",
    flow: Annotated[
        float | None,
        typer.Option(help="Weight of the flow matching loss; unless given 0.1, and 0 with --steps."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of a student of few steps, and only of one.")] = None,
    initial: Annotated[
        str | None,
        typer.Option(
            help="A pruned pipeline to go on from: what recover left, or a preset. Where it has fewer hidden units "
            "than --sparsity, the best of those it lost come back."
        ),
    ] = None,
    lr: Annotated[float, typer.Option(help="Learning rate; Muon's is twice that.")] = 1e-3,
    name: Annotated[
        str | None, typer.Option(help="Of the run's folder in --out; `recover` unless given.")
    ] = None,
    out: Out = Path("runs"),
    budget: Budget = 20.0,
    samples: Samples = 1_000_000,
    threads: Threads = 0,
    seed: Seed = 0,
    device: Device = "cpu",
    batch_size: BatchSize = None,
    stored: Stored = CLIPS_STORED,
    compile: Compile = False,
) -> None:
    """Prune, and train what is left to say what the dense model says; resumes what --out holds of it."""
    from magic141 import weights

    check_folder(out / (name or "recover"), "--out")
    folder = weights.resolve(dense)
    earlier = None if initial is None else weights.resolve(initial)
    from magic141.train import recover as recovery
    from magic141.train.loop import Settings

    use(device, threads)
    if flow is None:
        flow = recovery.FLOW if steps is None else 0.0
    plan = recovery.Plan(sparsity=sparsity, criterion=criterion, flow=flow, steps=steps, initial=earlier)
    settings = Settings(
        out=out / (name or "recover"),
        samples=samples,
        batch_size=batch_size or 16,
        lr=lr,
        muon_lr=2 * lr,
        budget_minutes=budget,
        warmup_steps=50,
        ema=0.99,
        seed=seed,
        device=device,
        compile=compile,
    )
    seen = recovery.run(plan, settings, out / "latents", folder, stored)
    ending.leave("recover", seen, settings.out, seed, device)


def transplant(
    student: Annotated[
        str, typer.Option(help="Whose change of the dense model is brought over.")
    ] = "lab-student",
    dense: Annotated[str, typer.Option(help="The teacher of that student.")] = "lab",
    pruned: Annotated[
        str, typer.Option(help="That teacher pruned and recovered: what `recover` left.")
    ] = "runs/recover/student",
    strength: Annotated[float, typer.Option(help="Times that change; `bench select` says what suits.")] = 1.0,
    name: Annotated[str, typer.Option(help="Of the result's folder in --out.")] = "transplant",
    out: Out = Path("runs"),
) -> None:
    """Bring what a student changes of its teacher over to the pruned teacher: a start for `distill --initial`."""
    from magic141 import weights
    from magic141.train import transplant as transplanting

    check_folder(out / name, "--out")
    changed, original, cut = (weights.resolve(source) for source in (student, dense, pruned))
    left = transplanting.run(changed, original, cut, strength, out / name)
    typer.echo(f"{out / name / 'student'}; as the pruned model has them: {', '.join(left) or 'none'}")
