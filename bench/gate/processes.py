"""The driver's side: servers, the workers that they fork, and what happens to either when something goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import subprocess
from collections.abc import Sequence
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any, Self

from bench.errors import InvalidGateError
from bench.gate.trees import Tree
from bench.isolation import check_sockets

IMPORT_SECONDS = 600.0
CONNECT_SECONDS = 60.0
_THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_PATHS = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "MAGIC141_WEIGHTS")
"""Where a user's own code or weights lie, which would stand in for those of both trees."""


class Remote:
    """A worker as its driver sees it. Every failure becomes InvalidGateError with what the worker printed last."""

    def __init__(self, connection: Connection, name: str, log: Path, limit: float) -> None:
        self._connection, self._name, self._log, self._limit = connection, name, log, limit

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        self.send(what, **arguments)
        return self.receive()

    def send(self, what: str, **arguments: Any) -> None:
        try:
            self._connection.send({"ask": what, **arguments})
        except OSError:
            raise InvalidGateError(f"{self._name} has ended{last_words(self._log)}") from None

    def receive(self) -> dict[str, Any]:
        try:
            if not self._connection.poll(self._limit):
                raise InvalidGateError(
                    f"{self._name} gave no answer within {self._limit:g} s: raise `time_limit`, or find what hangs"
                )
            answer: dict[str, Any] = self._connection.recv()
        except (EOFError, OSError):
            raise InvalidGateError(f"{self._name} has ended{last_words(self._log)}") from None
        if "error" in answer:
            raise InvalidGateError(f"{self._name}: {answer['error']}")
        return answer

    def close(self) -> None:
        self._connection.close()


def last_words(log: Path) -> str:
    """What a process printed last: its log lies in the gate's private folder, and goes with it."""
    lines = log.read_text("utf-8", errors="replace").splitlines() if log.exists() else []
    tail = [line for line in lines if line.strip()][-1:]
    return f"; it said: {tail[0]}" if tail else " without a word"


class Server:
    """One interpreter that forks workers (`bench/gate/server.py`); `work` is the gate's private folder."""

    def __init__(self, python: str, work: Path, name: str) -> None:
        self._python, self._work, self._name = python, work, name
        self._number = 0
        self._neutral = work / "neutral"
        self._neutral.mkdir(exist_ok=True)
        key = secrets.token_bytes(16)
        check_sockets()
        self._listener = Listener(authkey=key)
        self._settings = {
            "address": self._listener.address,
            "key": key.hex(),
            "harness": str(work / "harness"),
        }
        self._forks = hasattr(os, "fork")
        self._process = self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def preload(self, modules: Sequence[str]) -> None:
        """Imports what the workers to come need; nothing where they cannot be forked."""
        if self._forks:
            self._request({"do": "import", "modules": list(modules)})
            assert self._process.stdout is not None
            ready, _, _ = select.select([self._process.stdout], [], [], IMPORT_SECONDS)
            if not ready or not self._process.stdout.readline():
                raise InvalidGateError(f"the imports of {self._name} did not end{last_words(self._log)}")

    def fork(self, tree: Tree, name: str, limit: float) -> Remote:
        """A fresh worker for `tree`. Raises InvalidGateError where it does not come up."""
        if not self._forks and self._number:
            self._process = self._start()
        self._number += 1
        log = self._work / f"{name}-{self._number}.log"
        self._request(
            {
                "do": "fork",
                "tree": str(tree.path),
                "log": str(log),
                "seed": secrets.randbits(32),
            }
        )
        waiting = getattr(self._listener, "_listener", None)  # accept() itself knows no limit of time
        sock = getattr(waiting, "_socket", None)
        if sock is not None:
            sock.settimeout(CONNECT_SECONDS)
        try:
            connection = self._listener.accept()
        except (OSError, EOFError):
            raise InvalidGateError(f"{name} did not come up{last_words(log)}") from None
        return Remote(connection, name, log, limit)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)  # it leads a session: its workers end with it
        self._process.kill()
        self._process.wait()
        self._listener.close()

    @property
    def _log(self) -> Path:
        return self._work / f"{self._name}.log"

    def _start(self) -> subprocess.Popen[str]:
        # A user's PYTHONPATH may lead to another magic141, and a user's site to another version of a package.
        environment = {name: value for name, value in os.environ.items() if name not in _PATHS} | _THREADS
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [self._python, "-P", "-s", str(self._work / "harness" / "bench" / "gate" / "server.py")],
                cwd=self._neutral,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert process.stdin is not None
        process.stdin.write(json.dumps(self._settings) + "\n")
        process.stdin.flush()
        return process

    def _request(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise InvalidGateError(f"{self._name} has ended{last_words(self._log)}") from None
