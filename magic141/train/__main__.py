"""`python -m magic141.train STAGE`: trains one stage of the lab weights; `pack` makes a pipeline folder of them."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magic141.errors import Magic141Error

if TYPE_CHECKING:
    from magic141.train.loop import Progressed

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
Out = Annotated[Path, typer.Option(help="Folder of checkpoints, loss curves and stage weights.")]
Budget = Annotated[float, typer.Option(help="Minutes after which the stage has decayed and ends.")]
Samples = Annotated[int, typer.Option(help="Samples after which it ends, if sooner.")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's choice.")]
Seed = Annotated[int, typer.Option(help="Seed of weights, data order and noise.")]


def _threads(count: int) -> None:
    import torch

    if count:
        torch.set_num_threads(count)


@app.command()
def vae(
    out: Out = Path("runs"),
    budget: Budget = 60.0,
    samples: Samples = 100_000,
    threads: Threads = 0,
    seed: Seed = 0,
) -> None:
    """Train the autoencoder."""
    from magic141.train import recipes

    _threads(threads)
    _finish("vae", recipes.train_vae(out, budget, samples, seed), out, seed)


@app.command()
def clip(
    out: Out = Path("runs"),
    budget: Budget = 12.0,
    samples: Samples = 400_000,
    threads: Threads = 0,
    seed: Seed = 0,
) -> None:
    """Train the text and image encoders."""
    from magic141.train import recipes

    _threads(threads)
    _finish("clip", recipes.train_clip(out, budget, samples, seed), out, seed)


@app.command()
def t2i(
    out: Out = Path("runs"),
    budget: Budget = 30.0,
    samples: Samples = 2_000_000,
    threads: Threads = 0,
    seed: Seed = 0,
) -> None:
    """Train text-to-image; needs the stages vae and clip, of this folder or shipped."""
    from magic141.train import recipes

    _threads(threads)
    _finish("t2i", recipes.train_t2i(out, budget, samples, seed), out, seed)


@app.command()
def i2v(
    out: Out = Path("runs"),
    budget: Budget = 90.0,
    samples: Samples = 1_000_000,
    threads: Threads = 0,
    seed: Seed = 0,
) -> None:
    """Train image-to-video from the checkpoint of t2i."""
    from magic141.train import recipes

    _threads(threads)
    _finish("i2v", recipes.train_i2v(out, budget, samples, seed), out, seed)


@app.command()
def pack(out: Out = Path("runs"), target: Path = Path("magic141/weights/lab")) -> None:
    """Write the trained stages as one diffusers folder, in bfloat16, with its checksums."""
    from magic141.train import recipes

    recipes.pack(out, target)


def _finish(stage: str, seen: Progressed, out: Path, seed: int) -> None:
    """Leave what the model card needs, and the loss curve as a picture."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    facts = {
        "stage": stage,
        "commit": commit or "unknown",
        "command": "python -m magic141.train " + " ".join(sys.argv[1:]),
        "seed": seed,
        "machine": f"{platform.machine()}, {platform.system()}",
        **vars(seen),
    }
    (out / stage / "card.json").write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
    _plot(out / stage)


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
