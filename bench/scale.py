"""Cells on a Ray cluster (`--ray`): the same worker, one cell a node at a time, into the same store.

Every node needs this checkout at the same path, as a shared disk gives it, and the driver's environment:
nodes with another fingerprint are left out, since a run has one.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from bench import hardware, worker
from bench.errors import RunError
from bench.isolation import Ending, Isolation
from bench.jobs import Answer, Display, Job

PROBE_SECONDS = 120.0
ATTEMPTS = 2


def require() -> Any:
    """The module `ray`. Raises RunError that names the extra."""
    try:
        import ray
    except ImportError:
        raise RunError("--ray needs Ray, an extra: pip install --editable '.[ray]' into the .venv") from None
    return ray


def answers(address: str, jobs: Sequence[Job], modules: Sequence[str], display: Display) -> Iterator[Answer]:
    """Answers in the order in which they come. A cell whose worker is lost is tried once more, then `crashed`.

    `address`: of a running cluster, `local` for one on this machine, `local:N` for one of N workers here (they
    share its cores: good for scores and tests, not for times).

    Raises RunError where there is no cluster, or no node with this environment (any more).
    """
    ray = require()
    with _connected(ray, address):
        free = _usable(ray, jobs[0], display)
        waiting = [(job, 1) for job in jobs]
        running: dict[Any, tuple[Job, int, dict[str, Any]]] = {}
        while waiting or running:
            while waiting and free:
                (job, attempt), node = waiting.pop(0), free.pop(0)
                display.cell_started(job.cell)
                task = _on(ray, _answer, node, job).remote(replace(job, work=Path()), tuple(modules))
                running[task] = (job, attempt, node)
            if not running:
                raise RunError("no node of the cluster is left: --resume runs what is missing")
            (task,), _ = ray.wait(list(running))
            job, attempt, node = running.pop(task)
            try:
                started, preload, ending, files = ray.get(task)
            except ray.exceptions.RayTaskError as error:  # our own code raised there: it would raise again
                reason = f"no answer from its node: {error.cause!r}"
                yield Answer(job, Ending.unseen(reason), datetime.datetime.now(datetime.UTC), 0.0)
            except ray.exceptions.RayError as error:
                reason = f"worker lost ({type(error).__name__}), attempt {attempt} of {ATTEMPTS}"
                display.note(f"{job.cell.label}: {reason}")
                if attempt < ATTEMPTS:
                    waiting.append((job, attempt + 1))
                else:
                    yield Answer(job, Ending.unseen(reason), datetime.datetime.now(datetime.UTC), 0.0)
            else:
                for name, content in files.items():
                    (job.work / name).parent.mkdir(parents=True, exist_ok=True)
                    (job.work / name).write_bytes(content)
                yield Answer(job, ending, started, preload)
            free += [other for other in ray.nodes() if other["NodeID"] == node["NodeID"] and other["Alive"]]


def request(job: Job, node: dict[str, Any]) -> dict[str, float]:
    """A cell that is timed claims its node whole; one that is not asks for its threads."""
    cpus, gpus = (node["Resources"].get(name, 0) for name in ("CPU", "GPU"))
    if job.cell.kind == "cell":
        return {"num_cpus": cpus, "num_gpus": gpus}
    return {"num_cpus": min(job.threads, cpus), "num_gpus": min(1, gpus)}


@contextlib.contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    local = re.fullmatch(r"local(?::([1-9]\d*))?", address)
    cluster = None
    try:
        if local:
            from ray.cluster_utils import Cluster

            count = int(local[1] or 1)
            cluster = Cluster()
            for _ in range(count):
                cluster.add_node(num_cpus=max(1, hardware.cores() // count), include_dashboard=False)
        elif place := re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", address):
            # Ray itself would wait for minutes, then end the process.
            socket.create_connection((place[1], int(place[2])), timeout=10).close()
        environment = {"env_vars": {"PYTHONPATH": os.pathsep.join([str(hardware.ROOT), *_python_path()])}}
        ray.init(
            cluster.address if cluster else address,
            runtime_env=environment,
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise RunError(f"--ray {address}: no cluster there ({error})") from error
    try:
        yield
    finally:
        ray.shutdown()
        if cluster:
            cluster.shutdown()


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _usable(ray: Any, job: Job, display: Display) -> list[dict[str, Any]]:
    """Nodes that are alive and have the fingerprint of the run."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    probes = [_on(ray, _fingerprint, node, job).remote(job.threads) for node in nodes]
    try:
        same = [fingerprint == job.fingerprint for fingerprint in ray.get(probes, timeout=PROBE_SECONDS)]
    except ray.exceptions.RayError as error:
        raise RunError(
            f"a node of the cluster did not say within {PROBE_SECONDS:g} s what environment it has "
            f"({type(error).__name__}): wait until the cluster is free, or leave that node out"
        ) from error
    if not any(same):
        raise RunError(
            f"none of the cluster's {len(nodes)} nodes has the environment of this machine ({job.fingerprint}: code, "
            "packages, processor, memory): start the bench on a node like the workers"
        )
    if not all(same):
        display.note(f"{same.count(False)} of {len(nodes)} nodes are left out: their environment differs")
    return [node for node, equal in zip(nodes, same, strict=True) if equal]


def _on(ray: Any, function: Any, node: dict[str, Any], job: Job) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.remote(max_retries=0, scheduling_strategy=place, **request(job, node))(function)


def _fingerprint(threads: int) -> str:
    return hardware.environment(threads).fingerprint


@cache
def _isolation(modules: tuple[str, ...]) -> tuple[Isolation, float]:
    """Once a worker process: the fork server that its cells come from, and the seconds of its imports."""
    # A child would run its parent's main file again: Ray's, which imports all of Ray.
    vars(sys.modules["__main__"])["__file__"] = None
    isolation = Isolation(modules)
    return isolation, isolation.preload()


def _answer(job: Job, modules: tuple[str, ...]) -> tuple[datetime.datetime, float, Ending, dict[str, bytes]]:
    """On a node: when it started, seconds of imports, how it ended, and the files it left."""
    isolation, preload = _isolation(modules)
    with tempfile.TemporaryDirectory() as folder:
        here = replace(job, work=Path(folder))
        started = datetime.datetime.now(datetime.UTC)
        ending = isolation.call(worker.run_cell, (here,), here.work / "log", job.suite.time_limit)
        files = [path for path in here.work.rglob("*") if path.is_file()]
        return started, preload, ending, {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}
