"""Every task of this project, on one shared `.venv`.

    python -m nox -s bench             the step sweep, its scores and the report
    python -m nox -s tests             the test suite
    python -m nox -s lint              style, types, import contracts
    python -m nox -s gate              the working tree against HEAD: slower, larger, worse?
    python -m nox -s train -- vae      one training stage
    python -m nox -s claims            the paper's claims, pre-registered and resumable
    python -m nox -s dev               only makes the `.venv`, with the project editable and all tools

Words after `--` go to the tool behind a session. The `.venv` is made by whichever session first finds
it missing or older than `pyproject.toml` and `constraints.txt`; uv makes it where uv exists, pip elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).parent.resolve()
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "magic141.stamp"
MIN_PYTHON = (3, 11)

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["tests", "lint"]
nox.options.default_venv_backend = "none"


@nox.session
def bench(session: nox.Session) -> None:
    """Run a suite (bench/suites/lab.yaml, or the one named after `--`), score it, write the report."""
    # A run that is resumed has a suite of its own.
    has_one = any(word.endswith((".yaml", ".yml")) or word.startswith("--resume") for word in session.posargs)
    suite = [] if has_one else ["bench/suites/lab.yaml"]
    run_python(session, "-m", "bench", "run", *suite, *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests but the slow ones (`-- -m slow`); `gpu` ones are left out where there is no accelerator.

    Words after `--` take the place of ours, the workers included.
    """
    # A file's tests stay together: they share what is costly to make. Four workers at most: each imports PyTorch.
    ours = ("-m", "not slow", "--numprocesses", "logical", "--maxprocesses", "4", "--dist", "loadfile")
    run_python(session, "-m", "pytest", "-q", *(session.posargs or ours))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, types, and which package may import which."""
    run_python(session, "-m", "ruff", "check", ".")
    run_python(session, "-m", "ruff", "format", "--check", ".")
    run_python(session, "-m", "mypy")
    # import-linter has no `python -m`; its script is not on the path of an environment that is not activated.
    run_python(session, "-c", "from importlinter.cli import lint_imports_command as run; run()")


@nox.session
def claims(session: nox.Session) -> None:
    """Run what is missing of the paper's claims (`-- --quick`: one of them, small), and write their table."""
    run_python(session, "-m", "bench", "claims", *session.posargs)


@nox.session
def gate(session: nox.Session) -> None:
    """Compare two trees (`-- --base REF --head REF`); by default the working tree with HEAD."""
    refs = [] if "--base" in session.posargs else ["--base", "HEAD"]
    # 1 FAIL, 3 INVALID and 4 INCONCLUSIVE all end the session as failed: none is a pass.
    run_python(session, "-m", "bench", "gate", *refs, *session.posargs)


@nox.session
def train(session: nox.Session) -> None:
    """Run one training stage, named after `--`, with its options; `judge` is the evaluators' own network."""
    if session.posargs[:1] == ["judge"]:  # magic141 must not know its judges
        run_python(session, "-m", "evals", "judge", "train", *session.posargs[1:])
    else:
        run_python(session, "-m", "magic141.train", *session.posargs)


@nox.session
def dev(session: nox.Session) -> None:
    """Make the `.venv` (the project editable, all tools) and say where it is."""
    ensure_venv(session)
    session.log(f"ready: {PYTHON.relative_to(ROOT)}")


def run_python(session: nox.Session, *args: str) -> None:
    ensure_venv(session)
    session.chdir(ROOT)
    session.run(str(PYTHON), *args, external=True)


def ensure_venv(session: nox.Session) -> None:
    """Make or refresh `.venv`; does nothing when the stamp says that its inputs are unchanged."""
    wanted = f"{ROOT}\n{inputs_hash()}"
    found = STAMP.read_text(encoding="utf-8") if STAMP.exists() else ""
    if PYTHON.exists() and found == wanted:
        return
    session.chdir(ROOT)
    # Moved or copied, it is none: its scripts and the editable project name the old place.
    if "\n" in found and not found.startswith(f"{ROOT}\n"):
        if Path(sys.prefix).resolve() == VENV.resolve():
            session.error("this .venv was moved, and must be made anew: run nox with a Python outside of it")
        shutil.rmtree(VENV)
    session.log("installing into .venv (several GB, most of them PyTorch; only when its inputs change)")
    project = ["--constraint", "constraints.txt", "--group", "dev", "--editable", "."]
    if uv := working_uv():
        if not PYTHON.exists():
            python = sys.executable if sys.version_info >= MIN_PYTHON else f">={minimum()}"
            session.run(uv, "venv", "--clear", "--python", python, str(VENV), external=True)
        # Bytecode now, not inside the first measurement: a fresh `import diffusers` is twice as slow without.
        install = [uv, "pip", "install", "--python", str(PYTHON), "--compile-bytecode"]
    else:
        if sys.version_info < MIN_PYTHON:
            session.error(
                f"Python {minimum()} or newer is needed, and this nox runs on {sys.version.split()[0]}:"
                " install nox with a newer Python, or install uv, which finds one by itself."
            )
        if not PYTHON.exists():
            session.run(sys.executable, "-m", "venv", "--clear", str(VENV), external=True)
        session.run(str(PYTHON), "-m", "ensurepip", external=True)  # uv makes environments without pip
        # The pip that comes with an older Python does not know dependency groups.
        session.run(str(PYTHON), "-m", "pip", "install", "--upgrade", "pip>=25.1", external=True)
        install = [str(PYTHON), "-m", "pip", "install"]
    session.run(*install, *project, external=True)
    STAMP.write_text(wanted, encoding="utf-8")


def minimum() -> str:
    return ".".join(map(str, MIN_PYTHON))


def working_uv() -> str | None:
    """The uv on the path, if it runs: a version manager's shim may stand there with nothing behind it."""
    uv = shutil.which("uv")
    if uv is None or subprocess.run([uv, "--version"], capture_output=True, check=False).returncode != 0:
        return None
    return uv


def inputs_hash() -> str:
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        # Line endings differ between checkouts on Windows and elsewhere; the content does not.
        digest.update((ROOT / name).read_text(encoding="utf-8").encode())
    return digest.hexdigest()


if __name__ == "__main__":
    nox.main()
