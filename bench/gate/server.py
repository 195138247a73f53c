"""Started as a file by `python -P`: imports third-party modules once, then forks a worker on every request.

Only the standard library is imported here, and no directory with a `magic141` is left on the path: a worker gets
its tree after the fork. Both trees' workers come from one server, so that they share its address layout; two
servers would give each tree a layout of its own, a bias that no number of restarts shows.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import mmap
import os
import random
import signal
import sys
from multiprocessing.connection import Client
from pathlib import Path

PADDING = 256
"""Blocks of memory that a worker takes before it loads anything: a fork would repeat its parent's layout."""


def main() -> None:
    """Answers lines on the standard input, JSON each; ends, with all workers, when it closes."""
    settings = json.loads(sys.stdin.readline())
    sys.path[:] = [entry for entry in sys.path if not (Path(entry or ".") / "magic141").exists()]
    if hasattr(os, "fork"):
        signal.signal(
            signal.SIGCHLD, signal.SIG_IGN
        )  # nobody waits for workers: the driver sees their pipes end
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "import":
            for name in request["modules"]:
                # What fails here fails again in the worker, with the tree that asked for it.
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
            gc.collect()
            gc.freeze()  # a collection in a worker would copy the pages that it shares
            print(flush=True)  # that is all that the driver waits for
        elif not hasattr(os, "fork"):
            become_worker(settings, request)
            return
        elif os.fork() == 0:
            with contextlib.suppress(KeyboardInterrupt):
                become_worker(settings, request)
            os._exit(0)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)


def become_worker(settings: dict[str, str], request: dict[str, str]) -> None:
    """Everything that a worker prints goes to its log; from here on `bench.gate.worker` talks to the driver."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    held = shuffle_layout(random.Random(request["seed"]))
    sys.path[:0] = [request["tree"], settings["harness"]]
    connection = Client(settings["address"], authkey=bytes.fromhex(settings["key"]))
    try:
        serve = importlib.import_module("bench.gate.worker").serve
        serve(connection, request["tree"], settings["harness"])
    except EOFError:
        pass  # the driver is done with this worker
    except BaseException as error:
        with contextlib.suppress(OSError):
            connection.send({"error": f"{type(error).__name__}: {error}"})
        raise
    finally:
        connection.close()
        del held


def shuffle_layout(rng: random.Random) -> list[object]:
    """Memory of random sizes, from the allocator and from the kernel, for as long as the list is held."""
    held: list[object] = [bytearray(rng.randrange(1, 1 << 17)) for _ in range(PADDING)]
    held += [mmap.mmap(-1, mmap.PAGESIZE * rng.randrange(1, 512)) for _ in range(PADDING // 16)]
    for place in rng.sample(range(PADDING), PADDING // 2):
        held[place] = None  # holes, for later allocations to fall into
    return held


if __name__ == "__main__":
    main()
