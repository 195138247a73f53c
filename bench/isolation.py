"""A fresh process for every cell, and how it ended.

On POSIX a fork server imports the heavy libraries once and runs nothing else: no operator, no CUDA call, so
that its children start clean. Elsewhere each child imports for itself. A child ends with its parent, whatever
ended that.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.util
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench import measure, preloading
from bench.errors import RunError, UnsupportedError
from bench.hardware import ROOT

_STAGE_BYTES = 256
_LONGEST_TMPDIR = 70
"""Of the 104 characters that some systems allow a socket's name, multiprocessing takes 33."""


@dataclass(frozen=True)
class Ending:
    """How a child ended. `stage` is the last one that it announced; `log` all that it printed.

    `exit_code` is None where nobody saw it end: then `log` says what is known. `killed_for_memory`: the kernel killed
    it, and the cgroup's counter says that memory was why. `peak_resident`: anonymous bytes above the child's baseline,
    as last seen.
    """

    exit_code: int | None
    timed_out: bool
    killed_for_memory: bool
    stage: str
    seconds: float
    spawn_seconds: float | None
    log: str
    peak_resident: int | None = None

    @classmethod
    def unseen(cls, reason: str) -> Self:
        """Of a child that nobody saw end; `reason` is what is known."""
        return cls(None, False, False, "", 0.0, None, reason)

    @property
    def reason(self) -> str:
        """One line for a child that left no record."""
        if self.exit_code is None:
            return self.log
        if self.exit_code < 0:
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
        self._progress.send(("done", done))

    def baseline(self, resident: int) -> None:
        """Anonymous bytes above which the parent counts this process's peak, from now on."""
        self._progress.send(("baseline", resident))


Target = Callable[..., None]


class Isolation:
    """Starts children, one at a time. `imports` are the modules to have loaded before any of them."""

    def __init__(self, imports: Sequence[str]) -> None:
        check_sockets()
        imports = ("magic141", *imports)  # first: it quietens what the others would say of each other
        self._imports = imports
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self._forks = method == "forkserver"
        self._context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            self._context.set_forkserver_preload([preloading.__name__])
            # The server starts with `python -c`: it finds this checkout on the path of its environment alone.
            paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
            os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))

    def preload(self, limit: float = 900) -> float:
        """Seconds that the imports take; afterwards (on POSIX) a child costs a fork."""
        start = time.perf_counter()
        if self._forks:
            _start_server(self._imports)
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
        kills = memory_kills()
        start = time.monotonic()
        child = self._context.Process(target=_enter, args=(target, arguments, log, stage, send, start))
        child.start()
        send.close()
        heard: dict[str, float] = {"done": 0.0}
        peak, timed_out = None, False
        try:
            while True:
                ready = multiprocessing.connection.wait([child.sentinel, receive], timeout=0.2)
                if receive in ready:
                    try:
                        name, value = receive.recv()
                    except (EOFError, OSError):
                        child.join()
                        break
                    heard[name] = value
                elif child.sentinel in ready:
                    break
                if "baseline" in heard:
                    peak = measure.peak_anonymous_bytes(child.pid) or peak
                on_progress(stage.value.decode(errors="replace"), heard["done"])
                if time.monotonic() - start > limit:
                    timed_out = True
                    break
        finally:
            _end(child)
            receive.close()
        return Ending(
            exit_code=child.exitcode,
            timed_out=timed_out,
            killed_for_memory=child.exitcode == -signal.SIGKILL and not timed_out and memory_kills() > kills,
            stage=stage.value.decode(errors="replace"),
            seconds=time.monotonic() - start,
            spawn_seconds=heard.get("spawned"),
            log=log.read_text(encoding="utf-8", errors="replace") if log.exists() else "",
            peak_resident=None if peak is None else max(0, peak - int(heard["baseline"])) or None,
        )


def _enter(
    target: Target, arguments: tuple[Any, ...], log: Path, stage: Any, send: Any, start: float
) -> None:
    """First code of a child: on its own (no terminal signals, no terminal), and gone when its parent is.

    Ends the process itself: Python would wait for threads and processes that a system has left running, for ever.
    """
    send.send(("spawned", time.monotonic() - start))
    # What the fork server imported stays: looking through it again takes a quarter of a second a collection, and there
    # is one before every timed sample.
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setsid"):
        os.setsid()
    threading.Thread(target=_follow_parent, daemon=True).start()
    with log.open("ab") as file:
        sys.stdout.flush(), sys.stderr.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code = 1
    try:
        target(*arguments, Announcer(stage, send))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            _say(print, end.code)
    except BaseException:
        _say(traceback.print_exc)
    finally:
        # Semaphores, as a progress bar has one, would be called leaked. This waits for nobody.
        _say(multiprocessing.util._run_finalizers, 0)  # type: ignore[attr-defined]
        _say(sys.stdout.flush)
        _say(sys.stderr.flush)
        os._exit(code)


def _say(word: Callable[..., object], *words: object) -> None:
    """What fails where the disk is full, or the system has closed what it prints to; nothing may keep the end off."""
    with contextlib.suppress(Exception):
        word(*words)


def check_sockets() -> None:
    """Processes talk through sockets in the temporary folder. Raises RunError where its name is too long for one."""
    folder = tempfile.gettempdir()
    if os.name == "posix" and len(os.fsencode(folder)) > _LONGEST_TMPDIR:
        raise RunError(
            f"TMPDIR={folder} has {len(os.fsencode(folder))} characters, and with more than {_LONGEST_TMPDIR} the "
            "sockets in it have names that are too long for the system: set a shorter one"
        )


def _start_server(imports: Sequence[str]) -> None:
    """Start the fork server deaf to Ctrl-C, which a terminal sends to it as well: it is this process that decides."""
    from multiprocessing import forkserver  # not for Windows

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    os.environ[preloading.VARIABLE] = os.pathsep.join(imports)
    try:
        forkserver.ensure_running()
    finally:
        del os.environ[preloading.VARIABLE]
        if main:
            signal.signal(signal.SIGINT, before)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        if hasattr(os, "killpg"):
            os.killpg(os.getpid(), signal.SIGKILL)  # and whatever this child has started
        os._exit(1)


def _import_only(modules: tuple[str, ...], announcer: Announcer) -> None:
    for module in modules:
        with contextlib.suppress(Exception, SystemExit):  # as in `bench.preloading`
            importlib.import_module(module)


def _end(child: Any) -> None:
    if child.is_alive():
        child.kill()
    if hasattr(os, "killpg"):
        # The child leads a session of its own: what it has started ends with it, also where it ended well.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    child.join()


@contextlib.contextmanager
def _scratch() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "log"


def memory_kills(proc: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int:
    """How often the kernel has killed a process of this cgroup for memory; 0 where nobody counts.

    cgroup 2 counts in memory.events, cgroup 1 in memory.oom_control. Inside a container the path that /proc names
    may lie outside of what is mounted: then the mount's root is the container's own group.
    """
    try:
        groups = [line.split(":", 2) for line in proc.read_text(encoding="ascii").split()]
    except OSError:
        return 0
    for _, controllers, path in groups:
        if "memory" in controllers.split(","):
            root, name = mount / "memory", "memory.oom_control"
        elif not controllers:
            root, name = mount, "memory.events"
        else:
            continue
        for file in (root / path.lstrip("/") / name, root / name):
            with contextlib.suppress(OSError):
                lines = file.read_text(encoding="ascii").splitlines()
                return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return 0


@contextlib.contextmanager
def memory_limit(limit: int | None) -> Iterator[None]:
    """Inside, this process may take `limit` bytes of private memory above what it holds on entering.

    RLIMIT_DATA: heap and private mappings. RLIMIT_AS would count libraries, and the terabytes that CUDA reserves.
    Allocators see a refusal and raise; nothing is killed. Raises UnsupportedError where there is no such limit.
    """
    if limit is None:
        yield
        return
    if sys.platform != "linux":
        raise UnsupportedError("`memory_limit` needs Linux: drop the key")
    import resource

    held = measure.process_status("self")["VmData"]
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (held + limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))
