"""A fresh process for every cell, and how it ended.

On POSIX a fork server imports the heavy libraries once and runs nothing else: no operator, no CUDA call, so
that its children start clean. Elsewhere each child imports for itself. A child ends with its parent, whatever
ended that.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.hardware import ROOT

_STAGE_BYTES = 256


@dataclass(frozen=True)
class Ending:
    """How a child ended. `stage` is the last one that it announced; `log` all that it printed."""

    exit_code: int | None
    timed_out: bool
    killed_for_memory: bool
    stage: str
    seconds: float
    spawn_seconds: float | None
    log: str

    @property
    def reason(self) -> str:
        """One line for a child that left no record."""
        if self.exit_code is not None and self.exit_code < 0:
            name = signal.Signals(-self.exit_code).name
            return f"killed by {name}" + (" when the memory limit was hit" if self.killed_for_memory else "")
        tail = [line for line in self.log.splitlines() if line.strip()][-1:]
        return "; ".join([f"exited with code {self.exit_code} and without a record", *tail])


class Announcer:
    """The child's side: says where it is. `stage` costs a memory copy, `progress` a pipe write."""

    def __init__(self, stage: Any, progress: Any) -> None:
        self._stage, self._progress = stage, progress

    def stage(self, name: str) -> None:
        self._stage.value = name.encode()[: _STAGE_BYTES - 1]

    def progress(self, done: float) -> None:
        """Share of the work done, in [0, 1]."""
        self._progress.send(done)


Target = Callable[..., None]


class Isolation:
    """Starts children, one at a time. `imports` are the modules to have loaded before any of them."""

    def __init__(self, imports: Sequence[str]) -> None:
        self._imports = tuple(imports)
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self._context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            self._context.set_forkserver_preload(list(imports))
            # The server starts with `python -c`: it finds this checkout on the path of its environment alone.
            paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
            os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))

    def preload(self, limit: float = 900) -> float:
        """Seconds that the imports take; afterwards (on POSIX) a child costs a fork."""
        start = time.perf_counter()
        with _scratch() as log:
            self.call(_import_only, (self._imports,), log, limit)
        return time.perf_counter() - start

    def call(
        self,
        target: Target,
        arguments: tuple[Any, ...],
        log: Path,
        limit: float,
        on_progress: Callable[[str, float], None] = lambda stage, done: None,
    ) -> Ending:
        """Runs `target(*arguments, announcer)` in a child and waits for it, at most `limit` seconds.

        `on_progress(stage, share)` is called a few times a second. Whatever ends this process ends the child.
        """
        stage = self._context.RawArray("c", _STAGE_BYTES)
        receive, send = self._context.Pipe(duplex=False)
        kills = _memory_kills()
        start = time.monotonic()
        child = self._context.Process(target=_enter, args=(target, arguments, log, stage, send, start))
        child.start()
        send.close()
        spawned, done, timed_out = None, 0.0, False
        try:
            while True:
                ready = multiprocessing.connection.wait([child.sentinel, receive], timeout=0.2)
                if receive in ready:
                    try:
                        message = receive.recv()
                    except (EOFError, OSError):
                        child.join()
                        break
                    spawned, done = (message[0], done) if isinstance(message, tuple) else (spawned, message)
                elif child.sentinel in ready:
                    break
                on_progress(stage.value.decode(errors="replace"), done)
                if time.monotonic() - start > limit:
                    timed_out = True
                    break
        finally:
            _end(child)
            receive.close()
        return Ending(
            exit_code=child.exitcode,
            timed_out=timed_out,
            killed_for_memory=_memory_kills() > kills,
            stage=stage.value.decode(errors="replace"),
            seconds=time.monotonic() - start,
            spawn_seconds=spawned,
            log=log.read_text(encoding="utf-8", errors="replace") if log.exists() else "",
        )


def _enter(
    target: Target, arguments: tuple[Any, ...], log: Path, stage: Any, send: Any, start: float
) -> None:
    """First code of a child: on its own (no terminal signals, no terminal), and gone when its parent is."""
    send.send((time.monotonic() - start,))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setsid"):
        os.setsid()
    threading.Thread(target=_follow_parent, daemon=True).start()
    with log.open("ab") as file:
        sys.stdout.flush(), sys.stderr.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    target(*arguments, Announcer(stage, send))


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        if hasattr(os, "killpg"):
            os.killpg(os.getpid(), signal.SIGKILL)  # and whatever this child has started
        os._exit(1)


def _import_only(modules: tuple[str, ...], announcer: Announcer) -> None:
    for module in modules:
        importlib.import_module(module)


def _end(child: Any) -> None:
    if child.is_alive():
        if hasattr(os, "killpg"):
            # The child leads a session of its own: what it has started ends with it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
        child.kill()
    child.join()


@contextlib.contextmanager
def _scratch() -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "log"


def _memory_kills() -> int:
    """How often the kernel has killed a process of this cgroup for memory; 0 where nobody counts."""
    try:
        group = Path("/proc/self/cgroup").read_text(encoding="ascii").strip().rpartition(":")[2]
        events = Path(f"/sys/fs/cgroup{group}/memory.events").read_text(encoding="ascii")
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in events.splitlines() if line.startswith("oom_kill "))
