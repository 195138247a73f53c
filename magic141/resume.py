"""What a training needs to be resumed: its state on the disk, its loss curve up to there, an end that keeps both."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from magic141.errors import InputError

DAMAGED = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    pickle.UnpicklingError,
)
"""What torch and numpy raise for a file that is cut off, or holds something else."""


def read(path: Path, device: str = "cpu") -> dict[str, Any]:
    """The state in a checkpoint. Raises InputError for a file that is none, or a damaged one."""
    try:
        saved = torch.load(path, weights_only=True, map_location=device)
    except DAMAGED as error:
        raise damaged(path, error) from error
    if not isinstance(saved, dict):
        raise damaged(path, TypeError(f"it holds a {type(saved).__name__}"))
    return saved


def damaged(path: Path, error: Exception) -> InputError:
    """The error for a file of a run that cannot be read."""
    return InputError(
        f"{path} is damaged ({type(error).__name__}): delete it, and what it holds is made anew by the same command"
    )


def write(state: dict[str, Any], path: Path) -> None:
    """Replace a checkpoint in one step. Raises InputError where there is no room; the one before stays."""
    partial = path.with_suffix(".tmp")
    try:
        torch.save(state, partial)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch's own writer says RuntimeError, and not why
        partial.unlink(missing_ok=True)
        raise InputError(
            f"{path} cannot be written ({getattr(error, 'strerror', None) or 'is the disk full?'}): make room, and the "
            "same command goes on from the last checkpoint"
        ) from error


def rewind(curve: Path, step: int) -> None:
    """Drop the points of a loss curve beyond `step`: what follows was lost with the run that was cut off."""
    if not curve.exists():
        return
    kept = []
    for line in curve.read_text("utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError):
            if json.loads(line)["step"] <= step:
                kept.append(f"{line}\n")
    curve.with_suffix(".tmp").write_text("".join(kept), "utf-8")
    os.replace(curve.with_suffix(".tmp"), curve)


@contextlib.contextmanager
def unbroken_steps() -> Iterator[Callable[[], bool]]:
    """Inside, SIGINT and SIGTERM wait until they are asked about: yields whether one has come, and then it is time to
    save. The signal is what ends the block. A second one ends it at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[int] = []

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        restore()

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # What is ignored, as in the background of a script, stays so; None is a handler that Python cannot put back.
    before = {number: old for number, old in handlers.items() if old not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        restore()
    if came:
        signal.raise_signal(came[0])
