"""What the trainings of the judges share: steps with a checkpoint every two minutes, a curve, and a progress bar."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_SECONDS = 120

Part = nn.Module | torch.optim.Optimizer


def run(
    name: str,
    folder: Path,
    parts: Mapping[str, Part],
    steps: int,
    update: Callable[[int], dict[str, Tensor]],
    *,
    every: int,
    budget_minutes: float | None,
) -> float | None:
    """Call `update` for steps 0 … steps - 1 and return the seconds that they took; None where a budget ended them.

    Resumes from the checkpoint of `parts` in `folder`. What `update` returns of every `every`-th step goes to
    `loss.jsonl` there, and to the bar.
    """
    checkpoint = folder / CHECKPOINT
    first, spent = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        for key, part in parts.items():
            part.load_state_dict(saved[key])
        first, spent = saved["step"], saved["seconds"]
    began = saved_at = time.monotonic()

    def save(step: int) -> None:
        state: dict[str, Any] = {key: part.state_dict() for key, part in parts.items()}
        state |= {"step": step, "seconds": spent + time.monotonic() - began}
        torch.save(state, folder / "checkpoint.tmp")
        os.replace(folder / "checkpoint.tmp", checkpoint)

    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, TextColumn("{task.fields[terms]}")) as bar,
        (folder / "loss.jsonl").open("a") as curve,
    ):
        task = bar.add_task(name, total=steps, completed=first, terms="")
        for step in range(first, steps):
            terms = update(step)
            if (step + 1) % every == 0:
                row = {key: round(float(value.detach()), 4) for key, value in terms.items()}
                curve.write(json.dumps({"step": step + 1} | row) + "\n")
                curve.flush()
                bar.update(task, terms="  ".join(f"{key} {value:.3f}" for key, value in row.items()))
            bar.advance(task)
            if time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                save(step + 1)
                saved_at = time.monotonic()
            over = budget_minutes is not None and time.monotonic() - began > budget_minutes * 60
            if over and step + 1 < steps:
                save(step + 1)
                return None
    save(steps)
    return spent + time.monotonic() - began
