"""What the trainings of the judges share: steps with a checkpoint every two minutes and at the end, a curve, a bar."""

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

from magic141 import resume
from magic141.errors import InputError

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_SECONDS = 120
CURVE = "loss.jsonl"
UNSEEN = 1_000_000
"""Offset of the compositional scenes that a judge learns from: it must know all pairs, but no scene of a test."""

Part = nn.Module | torch.optim.Optimizer


def steps_of(samples: int, batch_size: int) -> int:
    """Whole batches in `samples`. Raises InputError where there is none: nothing would be learned."""
    if samples < batch_size:
        raise InputError(f"samples={samples} must be at least {batch_size}, which is one batch")
    return samples // batch_size


def make_folders(*folders: Path) -> None:
    """Raises InputError for one that cannot be made: at the start, and not after hours."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder} cannot be made ({error.strerror}): name another folder") from error


def rate(step: int, steps: int, *, warmup_steps: int, decay: float) -> float:
    """Factor on the learning rate: it rises over `warmup_steps`, stays 1, and falls to 0 over the last `decay`."""
    return min((step + 1) / warmup_steps, (steps - step) / max(1.0, decay * steps), 1.0)


def run(
    name: str,
    folder: Path,
    parts: Mapping[str, Part],
    steps: int,
    update: Callable[[int], dict[str, Tensor]],
    *,
    asked: Mapping[str, float],
    every: int,
    budget_minutes: float | None,
) -> float | None:
    """Call `update` for steps 0 … steps - 1 and return the seconds that they took; None where a budget ended them.

    Resumes from the checkpoint of `parts` in `folder`. What `update` returns of every `every`-th step goes to
    `loss.jsonl` there, and to the bar.

    asked: all that decides the weights, by name; it goes into the checkpoint.

    Raises InputError where the checkpoint is of a run that was asked otherwise, or of a version that did not say.
    """
    checkpoint = folder / CHECKPOINT
    first, spent = 0, 0.0
    if checkpoint.exists():
        saved = resume.read(checkpoint)
        _check_same(saved.get("asked"), asked, checkpoint)
        try:
            for key, part in parts.items():
                part.load_state_dict(saved[key])
            first, spent = saved["step"], saved["seconds"]
        except resume.DAMAGED as error:
            raise resume.damaged(checkpoint, error) from error
    resume.rewind(folder / CURVE, first)
    began = saved_at = time.monotonic()

    def save(step: int) -> None:
        state: dict[str, Any] = {key: part.state_dict() for key, part in parts.items()}
        state |= {"asked": dict(asked), "step": step, "seconds": spent + time.monotonic() - began}
        resume.write(state, checkpoint)

    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, TextColumn("{task.fields[terms]}")) as bar,
        (folder / CURVE).open("a") as curve,
        resume.unbroken_steps() as stopped,
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
            if (over or stopped()) and step + 1 < steps:
                save(step + 1)
                return None
    save(steps)
    return spent + time.monotonic() - began


def write_card(path: Path, card: Mapping[str, Any]) -> None:
    """The JSON beside trained weights, in one step."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _check_same(saved: Mapping[str, float] | None, asked: Mapping[str, float], checkpoint: Path) -> None:
    if saved is None:
        raise InputError(
            f"{checkpoint} is of an older version, which did not say of what run: train in another folder (--out)"
        )
    for name, value in asked.items():
        if saved.get(name) != value:
            raise InputError(
                f"{checkpoint} is of a run with {name}={saved.get(name)}, and {value} is asked: ask for the same, or "
                "train in another folder (--out)"
            )
