"""What a training leaves beside its weights: facts for the model card, and its loss curve as a picture."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magic141.source import commit

if TYPE_CHECKING:
    from magic141.train.loop import Progressed


def leave(stage: str, seen: Progressed, folder: Path, seed: int, device: str) -> None:
    """Write `card.json` and `loss.png` into the folder of a run that has ended; `seen` is what its loop returned.

    Where it took no step since they were written, they stay: they name the command and the commit that trained.
    """
    path = folder / "card.json"
    if vars(seen).items() <= _facts(path).items():
        return
    facts = {
        "stage": stage,
        "commit": commit(),
        "command": "python -m magic141.train " + " ".join(sys.argv[1:]),
        "seed": seed,
        "machine": f"{platform.machine()}, {platform.system()}, {_named(device)}",
        **vars(seen),
    }
    path.with_suffix(".tmp").write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
    os.replace(path.with_suffix(".tmp"), path)
    if points := _points(folder / "loss.jsonl"):
        _plot(points, folder / "loss.png")


def _named(device: str) -> str:
    import torch

    if device == "cpu":
        return f"{torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(device)


def _facts(path: Path) -> dict[str, Any]:
    """What a card says; nothing where there is none, or a version that wrote it in place was cut off."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return found
    return {}


def _points(path: Path) -> list[dict[str, float]]:
    """The points of a loss curve, but those that a run which was killed wrote in part."""
    points = []
    for line in path.read_text("utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            points.append(json.loads(line))
    return points


def _plot(points: list[dict[str, float]], path: Path) -> None:
    import matplotlib
    import pandas as pd

    matplotlib.use("Agg")
    curve = pd.DataFrame(points).set_index("samples").drop(columns=["step", "seconds"])
    axes = curve.ewm(span=20).mean().plot(subplots=True, figsize=(7, 2 * len(curve.columns)), grid=True)
    axes[0].figure.savefig(path, dpi=100, bbox_inches="tight")
