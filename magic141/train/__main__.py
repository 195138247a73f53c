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
from magic141.terminal import say_what_it_can
from magic141.train import ending, students
from magic141.train.folders import check_folder
from magic141.train.options import (
    CLIPS_STORED,
    BatchSize,
    Budget,
    Compile,
    Device,
    Events,
    Initial,
    Latents,
    Out,
    Rate,
    Samples,
    Seed,
    Stated,
    StatedInTurns,
    Stored,
    Terse,
    Threads,
    use,
)

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

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
        stored: Stored = CLIPS_STORED,
        rate: Rate = 1.0,
        compile: Compile = False,
        stated: StatedInTurns = [0.0],  # noqa: B006
        terse: Terse = False,
        latents: Latents = None,
    ) -> None:
        from magic141.train import recipes

        check_folder(out / stage, "--out")
        if latents is not None and not any(latents.glob("*/done.json")):  # a set that is there is only read
            check_folder(latents, "--latents")
        use(device, threads)
        run = recipes.Run(
            out=out,
            budget=budget,
            samples=samples,
            seed=seed,
            initial=initial,
            device=device,
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

for _made in (students.distill, students.recover, students.transplant):
    app.command()(_made)


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
    stored: Stored = CLIPS_STORED,
    stated: Stated = 0.0,
    events: Events = True,
) -> None:
    """Train image to video alone, to compare how fast it learns with parts of the prior."""
    from magic141 import weights

    check_folder(out / (name or kind.value), "--out")
    folder = weights.resolve(base)
    if initial is not None and not initial.is_file():
        raise InputError(f"--initial {initial} is no file: name the denoiser.pt that stage t2i left")
    from magic141.data.world import World
    from magic141.train import prior as prior_stage
    from magic141.train.loop import Settings

    use(device, threads)
    settings = Settings(
        out=out / (name or kind.value),
        samples=samples,
        batch_size=batch_size or 32,
        lr=2e-3,
        muon_lr=4e-3,
        budget_minutes=budget,
        warmup_steps=50,
        seed=seed,
        device=device,
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


def main() -> None:
    say_what_it_can()
    try:
        app()
    except Magic141Error as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
