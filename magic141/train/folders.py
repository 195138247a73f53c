"""Folders that training writes: whether it may, and of what run they are. Imports no torch."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from magic141 import weights
from magic141.errors import InputError

PLAN = "plan.json"
"""In the folder of a run: what decides its weights."""


def same_plan(folder: Path, asked: dict[str, Any], remedy: str = "give this one another --name") -> None:
    """Write down what `folder` is the run of. `remedy` says how else the run that is asked can be had.

    Raises InputError where it holds that of another plan, or of a version that did not write down all of `asked`.
    """
    path = folder / PLAN
    if path.exists():
        try:
            old = json.loads(path.read_text("utf-8"))
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is damaged: delete {folder} to begin anew, or {remedy}") from error
        for name, value in asked.items():
            if name not in old:
                raise InputError(
                    f"{path} is of an older version, which did not write down its {name}: {remedy}"
                )
            if old[name] != value:
                raise InputError(
                    f"{folder} holds a run with {name}={old[name]!r}, and {value!r} is asked: {remedy}"
                )
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".tmp").write_text(json.dumps(asked, indent=1) + "\n", "utf-8", newline="\n")
    os.replace(path.with_suffix(".tmp"), path)


def check_folder(folder: Path, option: str) -> None:
    """`folder` can be written, or made; leaves nothing behind. Raises InputError, which names it as `option`."""
    try:
        place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise InputError(f"{option} {folder} cannot be written ({error.strerror}): name another") from error


def check_target(target: Path) -> None:
    """`target` may be replaced by a pipeline folder. Raises InputError where it is something else, or unwritable."""
    check_folder(target.parent, "--target")
    if not target.exists() or (target / weights.INDEX).is_file():
        return
    if not target.is_dir() or any(target.iterdir()):
        raise InputError(
            f"--target {target} would be replaced, and is no pipeline (it has no {weights.INDEX}): name a folder that "
            "is new, empty or a pipeline"
        )
