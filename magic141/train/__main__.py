"""`python -m magic141.train STAGE`: trains one stage of the lab weights; `pack` makes a pipeline folder of them."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magic141.errors import InputError, Magic141Error

if TYPE_CHECKING:
    from magic141.train.loop import Progressed
    from magic141.train.recipes import Run

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
Out = Annotated[Path, typer.Option(help="Folder of checkpoints, loss curves and stage weights.")]
Budget = Annotated[float, typer.Option(help="Minutes after which the stage has decayed and ends.")]
Samples = Annotated[int, typer.Option(help="Samples after which it ends, if sooner.")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's choice.")]
Initial = Annotated[
    str | None, typer.Option(help="t2i, i2v: pipeline folder, preset or denoiser.pt to start from.")
]
Device = Annotated[str, typer.Option(help="cpu, or cuda: all but clip.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Unless given, the recipe's, which suits a CPU.")]
Stored = Annotated[int, typer.Option(min=64, help="t2i, i2v: clips to encode once; thrice as many images.")]
Rate = Annotated[
    float, typer.Option(min=1e-3, help="Factor on the recipe's learning rates; below 1 to go on.")
]
Seed = Annotated[int, typer.Option(help="Seed of weights, data order and noise.")]


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
    ) -> None:
        import torch

        from magic141.train import recipes

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
        )
        _finish(stage, recipes.STAGES[stage](run), run)

    return train


for _name, (_help, _minutes, _most) in STAGES.items():
    app.command(_name, help=_help)(command_of(_name, _minutes, _most))


@app.command()
def pack(out: Out = Path("runs"), target: Path = Path("magic141/weights/lab")) -> None:
    """Write the trained stages as one diffusers folder, in half precision, with card and checksums."""
    from magic141.train import recipes

    recipes.pack(out, target)


def _known_device(name: str) -> str:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name} cannot be used ({str(error).splitlines()[0]}): use cpu") from error
    return name


def _finish(stage: str, seen: Progressed, run: Run) -> None:
    """Leave what the model card needs, and the loss curve as a picture."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    facts = {
        "stage": stage,
        "commit": commit or "unknown",
        "command": "python -m magic141.train " + " ".join(sys.argv[1:]),
        "seed": run.seed,
        "machine": f"{platform.machine()}, {platform.system()}, {_named(run.device)}",
        **vars(seen),
    }
    (run.out / stage / "card.json").write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
    _plot(run.out / stage)


def _named(device: str) -> str:
    import torch

    if device == "cpu":
        return f"{torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(device)


def _plot(folder: Path) -> None:
    import matplotlib
    import pandas as pd

    matplotlib.use("Agg")
    curve = (
        pd.read_json(folder / "loss.jsonl", lines=True).set_index("samples").drop(columns=["step", "seconds"])
    )
    axes = curve.ewm(span=20).mean().plot(subplots=True, figsize=(7, 2 * len(curve.columns)), grid=True)
    axes[0].figure.savefig(folder / "loss.png", dpi=100, bbox_inches="tight")


def main() -> None:
    try:
        app()
    except Magic141Error as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
