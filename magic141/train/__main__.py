"""`python -m magic141.train STAGE`: trains one stage of the lab weights; `pack` makes a pipeline folder of them.

`distill METHOD` trains students of few steps.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from magic141.errors import InputError, Magic141Error
from magic141.train import ending
from magic141.train.folders import check_folder

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
Out = Annotated[Path, typer.Option(help="Folder of checkpoints, loss curves and stage weights.")]
Budget = Annotated[float, typer.Option(min=0.001, help="Minutes after which the stage has decayed and ends.")]
Samples = Annotated[int, typer.Option(min=1, help="Samples after which it ends, if sooner.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves torch's choice.")]
Initial = Annotated[
    str | None, typer.Option(help="t2i, i2v: pipeline folder, preset or denoiser.pt to start from.")
]
Device = Annotated[str, typer.Option(help="cpu, or cuda: all but clip.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Unless given, the recipe's, which suits a CPU.")]
Stored = Annotated[int, typer.Option(min=64, help="t2i, i2v: clips to encode once; thrice as many images.")]
Rate = Annotated[
    float, typer.Option(min=1e-3, help="Factor on the recipe's learning rates; below 1 to go on.")
]
Compile = Annotated[
    bool,
    typer.Option(
        help="torch.compile the transformer; needs a C++ compiler and a minute, saves a fifth to a third."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of weights, data order and noise.")]
Stated = Annotated[float, typer.Option(min=0, max=1, help="Share of the hidden factors that captions state.")]
Latents = Annotated[
    Path | None,
    typer.Option(help="t2i, i2v: folder of encoded scenes; `latents` in --out unless given."),
]
StatedInTurns = Annotated[
    list[float],
    typer.Option(
        min=0,
        max=1,
        help="t2i, i2v: share of the hidden factors that captions state; of several, scenes take turns.",
    ),
]
Terse = Annotated[bool, typer.Option(help="t2i, i2v, distill: captions name the subject alone.")]
Events = Annotated[bool, typer.Option(help="Whether turns, late objects and unsaid directions occur.")]


STAGES = {
    "vae": ("Train the autoencoder.", 48.0, 200_000),
    "clip": ("Train the text and image encoders.", 13.0, 400_000),
    "t2i": ("Train text to image; needs vae and clip, of this folder or shipped.", 30.0, 2_000_000),
    "i2v": ("Train image to video from the checkpoint of t2i.", 90.0, 1_000_000),
}
"""What a stage does, and its default budget in minutes and samples."""


def command_of(stage: str, minutes: float, most: int) -> Callable[..., None]:
    """The command that trains `stage`."""

    def train(
        out: Out = Path("runs"),
        budget: Budget = minutes,
        samples: Samples = most,
        threads: Threads = 0,
        seed: Seed = 0,
        initial: Initial = None,
        device: Device = "cpu",
        batch_size: BatchSize = None,
        stored: Stored = 12_000,
        rate: Rate = 1.0,
        compile: Compile = False,
        stated: StatedInTurns = [0.0],  # noqa: B006
        terse: Terse = False,
        latents: Latents = None,
    ) -> None:
        import torch

        from magic141.train import recipes

        check_folder(out / stage, "--out")
        if latents is not None and not any(latents.glob("*/done.json")):  # a set that is there is only read
            check_folder(latents, "--latents")
        if threads:
            torch.set_num_threads(threads)
        run = recipes.Run(
            out=out,
            budget=budget,
            samples=samples,
            seed=seed,
            initial=initial,
            device=_known_device(device),
            batch_size=batch_size,
            stored=stored,
            rate=rate,
            compile=compile,
            stated=tuple(stated),
            terse=terse,
            latents=latents,
        )
        ending.leave(stage, recipes.STAGES[stage](run), out / stage, seed, device)

    return train


for _name, (_help, _minutes, _most) in STAGES.items():
    app.command(_name, help=_help)(command_of(_name, _minutes, _most))


class Method(StrEnum):
    cfg = "cfg"
    trajectory = "trajectory"
    consistency = "consistency"
    dmd = "dmd"
    dmd2 = "dmd2"


@app.command()
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
    stored: Stored = 12_000,
    stated: Stated = 0.0,
    terse: Terse = False,
    events: Events = True,
) -> None:
    """Train a student of few steps; resumes what --out holds of it."""
    from magic141 import weights

    check_folder(out / (name or method.value), "--out")
    folders = [None if source is None else weights.resolve(source) for source in (teacher, initial)]
    import torch

    from magic141.train import distill as distillation
    from magic141.train.loop import Settings

    if threads:
        torch.set_num_threads(threads)
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
        device=_known_device(device),
        snapshots=snapshots,
    )
    assert folders[0] is not None
    seen = distillation.run(plan, settings, out / "latents", folders[0], folders[1], stored)
    ending.leave(method.value, seen, settings.out, seed, device)


@app.command()
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
    stored: Stored = 12_000,
    compile: Compile = False,
) -> None:
    """Prune, and train what is left to say what the dense model says; resumes what --out holds of it."""
    from magic141 import weights

    check_folder(out / (name or "recover"), "--out")
    folder = weights.resolve(dense)
    earlier = None if initial is None else weights.resolve(initial)
    import torch

    from magic141.train import recover as recovery
    from magic141.train.loop import Settings

    if threads:
        torch.set_num_threads(threads)
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
        device=_known_device(device),
        compile=compile,
    )
    seen = recovery.run(plan, settings, out / "latents", folder, stored)
    ending.leave("recover", seen, settings.out, seed, device)


@app.command()
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


class Prior(StrEnum):
    both = "both"
    latent = "latent"
    tokens = "tokens"


@app.command()
def prior(
    kind: Annotated[Prior, typer.Argument(help="Parts of the multi-modal prior that the model is shown.")],
    initial: Annotated[
        Path | None, typer.Option(help="denoiser.pt of a stage t2i; unless given, from nothing.")
    ] = None,
    base: Annotated[str, typer.Option(help="Pipeline whose VAE and text encoder are used.")] = "lab",
    snapshots: Annotated[int, typer.Option(min=1, help="Models to keep on the way.")] = 8,
    name: Annotated[
        str | None, typer.Option(help="Of the run's folder in --out; the kind unless given.")
    ] = None,
    out: Out = Path("runs"),
    budget: Budget = 30.0,
    samples: Samples = 1_000_000,
    threads: Threads = 0,
    seed: Seed = 0,
    device: Device = "cpu",
    batch_size: BatchSize = None,
    stored: Stored = 12_000,
    stated: Stated = 0.0,
    events: Events = True,
) -> None:
    """Train image to video alone, to compare how fast it learns with parts of the prior."""
    from magic141 import weights

    check_folder(out / (name or kind.value), "--out")
    folder = weights.resolve(base)
    if initial is not None and not initial.is_file():
        raise InputError(f"--initial {initial} is no file: name the denoiser.pt that stage t2i left")
    import torch

    from magic141.data.world import World
    from magic141.train import prior as prior_stage
    from magic141.train.loop import Settings

    if threads:
        torch.set_num_threads(threads)
    settings = Settings(
        out=out / (name or kind.value),
        samples=samples,
        batch_size=batch_size or 32,
        lr=2e-3,
        muon_lr=4e-3,
        budget_minutes=budget,
        warmup_steps=50,
        seed=seed,
        device=_known_device(device),
        snapshots=snapshots,
    )
    world = World(stated=stated, events=events)
    seen = prior_stage.run(kind.value, settings, out / "latents", folder, initial, stored, world)
    ending.leave("prior", seen, settings.out, seed, device)


@app.command()
def pack(
    target: Annotated[Path, typer.Option(help="The folder to write; one that is there is replaced.")],
    out: Out = Path("runs"),
    student: Annotated[
        Path | None, typer.Option(help="A student or snapshot to pack, instead of the stages in --out.")
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            help="Of a student: store what it changes of lab, in matrices of this rank; else whole."
        ),
    ] = None,
    strength: Annotated[
        float, typer.Option(min=0, help="Of a student with a rank: times what it changes of lab.")
    ] = 1.0,
    shift: Annotated[
        float | None,
        typer.Option(help="Of a student: of the times it is used at, unless given those it learned at."),
    ] = None,
) -> None:
    """Write the trained stages, or a student, as one diffusers folder, in half precision, with card and checksums."""
    if student is not None:
        from magic141.train import student as packing

        packing.pack(student, target, rank, strength, shift)
        return
    if (rank, strength, shift) != (None, 1.0, None):
        raise InputError("--rank, --strength and --shift are of a student: name it with --student")
    from magic141.train import recipes

    recipes.pack(out, target)


def _known_device(name: str) -> str:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name} cannot be used ({str(error).splitlines()[0]}): use cpu") from error
    return name


def main() -> None:
    try:
        app()
    except Magic141Error as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
