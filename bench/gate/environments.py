"""An interpreter for each tree: this one where the constraints are the same, else one made for those of its commit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import hardware
from bench.errors import InvalidGateError
from bench.gate.trees import CONSTRAINTS, PROJECT, Tree
from bench.records import digest

Run = Callable[[Sequence[str]], None]
STAMP = "complete"


def interpreter(tree: Tree, say: Callable[[str], None], run: Run | None = None) -> str:
    """The Python that measures `tree`; made under `cache()` at its first use, minutes and gigabytes.

    Raises InvalidGateError where it cannot be made: numbers of other packages would be no answer.
    """
    if tree.constraints is None:
        raise InvalidGateError(
            f"{tree.label} has no {CONSTRAINTS}: nobody knows which packages it was made for"
        )
    if tree.constraints == (hardware.ROOT / CONSTRAINTS).read_text(encoding="utf-8"):
        return sys.executable
    wanted = requirements(tree)
    folder = cache() / digest([tree.constraints, wanted, sys.version])
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (folder / STAMP).exists():
        say(f"{tree.label} has other {CONSTRAINTS}: an environment for it goes to {folder}, once")
        try:
            _make(folder, python, tree.constraints, wanted, run or _run)
        except (OSError, subprocess.CalledProcessError) as error:
            raise InvalidGateError(
                f"{tree.label} has other {CONSTRAINTS} than this tree, and an environment for it cannot be made: "
                f"{error}"
            ) from error
    return str(python)


def requirements(tree: Tree) -> list[str]:
    """What the commit's package depends on, and what this harness needs around it."""
    ours = tomllib.loads((hardware.ROOT / PROJECT).read_text(encoding="utf-8"))
    theirs = tomllib.loads(tree.project)
    wanted = [*theirs.get("project", {}).get("dependencies", []), *ours["dependency-groups"]["bench"]]
    return sorted({line for line in wanted if isinstance(line, str)})


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "magic141" / "gate"


def _make(folder: Path, python: Path, constraints: str, wanted: list[str], run: Run) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted call has left
    folder.parent.mkdir(parents=True, exist_ok=True)
    uv = shutil.which("uv")
    # A version manager's shim may stand on the path with nothing behind it.
    if uv is not None and subprocess.run([uv, "--version"], capture_output=True, check=False).returncode == 0:
        run([uv, "venv", "--python", sys.executable, str(folder)])
        install = [uv, "pip", "install", "--python", str(python), "--compile-bytecode"]
    else:
        run([sys.executable, "-m", "venv", str(folder)])
        install = [str(python), "-m", "pip", "install"]
    limits = folder / CONSTRAINTS
    limits.write_text(constraints, encoding="utf-8")
    run([*install, "--constraint", str(limits), *wanted])
    (folder / STAMP).write_text("", encoding="utf-8")


def _run(words: Sequence[str]) -> None:
    subprocess.run(words, check=True)
