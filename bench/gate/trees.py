"""The two trees of a gate: `magic141/` of a commit, or of the working tree, alone in a private directory."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from bench import hardware
from bench.errors import InvalidGateError, RunError
from bench.gate.worker import PACKAGE, sha256
from bench.records import digest

WORKTREE = "worktree"
CONSTRAINTS = "constraints.txt"
PROJECT = "pyproject.toml"


@dataclass(frozen=True)
class Tree:
    """`path` is the directory that holds `magic141/` and nothing else that Python could import.

    `sha256` covers names and contents of the package; `constraints` and `project` are the texts beside it.
    """

    ref: str
    commit: str | None
    path: Path
    sha256: str
    constraints: str | None
    project: str

    @property
    def id(self) -> str:
        """Hash of the package and of the constraints that say with which packages it is measured."""
        return digest([self.sha256, self.constraints])

    @property
    def label(self) -> str:
        return self.ref if self.commit is None else f"{self.ref} ({self.commit[:12]})"


def extract(ref: str, folder: Path, repository: Path | None = None) -> Tree:
    """The tree of a git `ref`, or of `worktree`, written to `folder`.

    Raises:
        RunError: there is no such ref, or no git.
        InvalidGateError: the ref has no `magic141/`.
    """
    root = repository or hardware.ROOT
    folder.mkdir(parents=True)
    if ref == WORKTREE:
        for name in _git(root, "ls-files", "-co", "--exclude-standard", "-z", PACKAGE).split(b"\0"):
            source = root / name.decode()
            if name and source.is_file():  # a file deleted but still tracked is not there
                (folder / name.decode()).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, folder / name.decode())
        commit = None
        texts = {
            name: path.read_text("utf-8") for name in (CONSTRAINTS, PROJECT) if (path := root / name).exists()
        }
    else:
        commit = _git(root, "rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}").decode().strip()
        names = set(_git(root, "ls-tree", "--name-only", commit).decode().splitlines())
        if PACKAGE in names:
            with tarfile.open(fileobj=io.BytesIO(_git(root, "archive", commit, PACKAGE))) as archive:
                archive.extractall(folder, filter="data")
        texts = {
            name: _git(root, "show", f"{commit}:{name}").decode()
            for name in (CONSTRAINTS, PROJECT)
            if name in names
        }
    if not (folder / PACKAGE / "__init__.py").is_file():
        raise InvalidGateError(f"{ref} has no package {PACKAGE}/: there is nothing to measure in it")
    return Tree(ref, commit, folder, sha256(folder), texts.get(CONSTRAINTS), texts.get(PROJECT, ""))


def check_distinct(base: Tree, head: Tree) -> None:
    """Raises InvalidGateError for equal trees, unless this is an A/A gate: one commit against itself."""
    same = base.commit is not None and base.commit == head.commit
    if base.id == head.id and not same:
        raise InvalidGateError(
            f"{PACKAGE}/ and {CONSTRAINTS} of {base.label} and of {head.label} are the same: a gate would compare a "
            "tree with itself. For an A/A gate, give one commit twice"
        )


def copy_harness(folder: Path) -> None:
    """`bench` and `evals` of the invoking tree, away from the `magic141` beside them."""
    for name in ("bench", "evals"):
        shutil.copytree(hardware.ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


def _git(root: Path, *words: str) -> bytes:
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, check=False)
    except OSError as error:
        raise RunError(f"a gate needs git, which cannot be started: {error}") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise RunError(
            f"git {' '.join(words)} in {root} says: {said}. Is the ref right, and fetched? A shallow clone lacks most: "
            "`git fetch --unshallow`, or `fetch-depth: 0` in actions/checkout"
        )
    return done.stdout
