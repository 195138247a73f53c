"""Options that several commands of `python -m magic141.train` have, and what they ask of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magic141.device import check_device

CLIPS_STORED = 12_000
"""Clips that are encoded for training unless the command line asks for more; images and long clips in proportion."""

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


def use(device: str, threads: int) -> None:
    """Compute on `device`, with so many CPU threads. Raises InputError for a device that is not there."""
    import torch

    check_device(device)
    if threads:
        torch.set_num_threads(threads)
