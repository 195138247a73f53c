"""Folders of runs: made, found again, held by one process at a time, and what they say of earlier runs."""

from __future__ import annotations

import contextlib
import datetime
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock

from bench.errors import RunError
from bench.records import RecordError, Store

LATEST = "latest"


def create(out: Path, name: str) -> Path:
    """A new folder for a run under `out`. Raises RunError where that cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        for suffix in ("", *(f"-{number}" for number in range(2, 100))):
            with contextlib.suppress(FileExistsError):
                (run := out / f"{name}-{stamp}{suffix}").mkdir()
                return run
    except OSError as error:
        raise RunError(
            f"{out} cannot be written ({error.strerror}): name another folder with --out"
        ) from error
    raise RunError(f"{out} holds a hundred runs of this second")


def check_writable(out: Path, option: str = "--out") -> None:
    """Raises RunError, naming the option to change, where `create` would fail; leaves nothing behind."""
    try:
        nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise RunError(
            f"{out} cannot be written ({error.strerror}): name another folder with {option}"
        ) from error


def locate(name: str, out: Path) -> Path:
    """The run folder that a user means: a path, a name under `out`, or `latest`. Raises RunError."""
    pointer = out / LATEST
    try:
        if name in (LATEST, str(pointer)):
            if not pointer.is_file():
                raise RunError(f"{pointer} does not exist: there is no latest run in {out}")
            name = pointer.read_text(encoding="utf-8").strip()
        for folder in (Path(name), out / name):
            if (folder / "run.json").is_file():
                return folder
    except OSError as error:
        raise RunError(
            f"run {name!r} cannot be looked for ({error.strerror}): name another folder with --out"
        ) from error
    raise RunError(f"no run {name!r}: neither {name}/run.json nor {out / name}/run.json exists; see `ls`")


@contextlib.contextmanager
def exclusive(run: Path) -> Iterator[None]:
    """Holds a folder that one process at a time may write: a run, the answers of `select`, a store of claims.

    The lock goes with its holder, however killed. Raises RunError where another holds it, or none can be written.
    """
    check_writable(run)
    run.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(run / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RunError(f"{run} is in use by another bench: wait for it, or stop it") from None
    try:
        yield
    finally:
        lock.release()


def history(out: Path) -> dict[str, float]:
    """Seconds that each cell took when it last ended well, over all readable runs in `out`."""
    seconds: dict[str, float] = {}
    with contextlib.suppress(OSError):
        for store in sorted(out.glob("*/records.jsonl")):
            with contextlib.suppress(RecordError, OSError):
                records = Store(store.parent).records()
                seconds.update({r.cell: r.seconds for r in records if r.outcome == "ok"})
    return seconds
