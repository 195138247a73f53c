"""The measuring side of a gate: one process, one tree, answers to the driver's questions."""

from __future__ import annotations

import hashlib
import importlib
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

PACKAGE = "magic141"

Question = dict[str, Any]
Answer = dict[str, Any]


class Worker:
    """Holds the loaded workloads of one tree, by cell."""

    def __init__(self, tree: str, harness: str) -> None:
        self._tree, self._harness = Path(tree), Path(harness)
        self._workloads: dict[str, Any] = {}

    def load(self, cells: dict[str, dict[str, Any]]) -> Answer:
        """Makes and loads workloads, {cell: {workload, knobs}}, and calls each once or twice, untimed."""
        for cell, spec in cells.items():
            module, _, name = spec["workload"].partition(":")
            workload = getattr(importlib.import_module(module), name)(**spec["knobs"])
            set_one_thread()
            workload.load()
            self._workloads[cell] = workload
        with inference_mode():
            for cell in cells:
                for _ in range(cells[cell].get("warmup", 0)):
                    self._workloads[cell].run()
        return {}

    def block(self, cell: str, passes: int) -> Answer:
        """Seconds of one call, the mean over `passes` in a row."""
        workload, wait = self._workloads[cell], wait_for_device()
        run, clock = workload.run, getattr(workload, "clock", perf_counter)
        with inference_mode():
            wait()
            start = clock()
            for _ in range(passes):
                run()
            wait()
            return {"seconds": (clock() - start) / passes}

    def counters(self, cell: str) -> Answer:
        """What one warm call costs in numbers that do not flake, and the hash of what it returns."""
        workload = self._workloads[cell]
        with inference_mode():
            output = workload.run()
            return {"counters": workload.counters(), "output": checksum(output)}

    def identity(self) -> Answer:
        """Where `magic141` came from, and any part of it that came from elsewhere."""
        import magic141

        strangers = [
            f"{name} from {origin}"
            for name, origin in _origins()
            if name.split(".")[0] == PACKAGE and not origin.is_relative_to(self._tree)
        ]
        return {"path": str(Path(str(magic141.__file__)).parent.parent), "strangers": strangers}

    def inventory(self) -> Answer:
        """Hash of the tree as it lies there, and third-party modules that a server may import beforehand."""
        own = (self._tree, self._harness)
        modules = [
            name
            for name, origin in _origins()
            if name != "__main__" and not any(origin.is_relative_to(folder) for folder in own)
        ]
        return {"sha256": sha256(self._tree), "modules": modules}

    def generate(
        self, adapter: str, knobs: dict[str, Any], requests: list[tuple[Any, ...]], batch: int, to: str
    ) -> Answer:
        """Clips of a system of `bench.systems`, as NPY files in the folder `to`; returns their hash."""
        from bench import systems
        from bench.measure import Stopwatch, synchronise

        system = systems.make(adapter, knobs)
        set_one_thread()
        system.load()
        asked = [systems.Request(*request) for request in requests]
        outputs = [
            system.generate(asked[start : start + batch], Stopwatch(synchronise()))
            for start in range(0, len(asked), batch)
        ]
        frames = np.concatenate([output.frames for output in outputs])
        systems.check_output(systems.Output(frames), len(asked))
        np.save(Path(to, "frames.npy"), frames)
        first = [output.first_frames for output in outputs if output.first_frames is not None]
        if first:
            np.save(Path(to, "first_frames.npy"), np.concatenate(first))
        return {"output": checksum([frames, *first])}

    def score(self, quality: dict[str, Any], folders: list[str]) -> Answer:
        """Scores of the clips in each folder, by metric: {protocol, better, target, values}, one value a prompt."""
        from bench import systems
        from bench.gate.config import Quality

        spec = Quality.model_validate(quality)
        asked = spec.requests()
        scorer = systems.find(spec.scorer, "scorer")
        found = []
        for folder in map(Path, folders):
            first = folder / "first_frames.npy"
            output = systems.Output(
                np.load(folder / "frames.npy"), np.load(first) if first.exists() else None
            )
            scores = scorer.score(output, asked, list(spec.margins))
            found.append(
                {
                    name: {
                        "protocol": score.protocol,
                        "better": score.better,
                        "target": score.target,
                        "values": _by_prompt(asked, [_number(row.get(name)) for row in scores.per_sample]),
                    }
                    for name, score in scores.aggregate.items()
                }
            )
        return {"scores": found}


def serve(connection: Connection, tree: str, harness: str) -> None:
    """Answers questions `{ask: method, ...}` until the driver hangs up. Only a question costs time."""
    worker = Worker(tree, harness)
    while True:
        question: Question = connection.recv()
        method: Callable[..., Answer] = getattr(worker, question.pop("ask"))
        connection.send(method(**question))


def checksum(output: Any) -> str:
    """sha256 of tensors, arrays or bytes, nested in tuples and lists. Raises ValueError for NaN and infinity."""
    digest = hashlib.sha256()
    for part in _parts(output):
        if isinstance(part, bytes):
            digest.update(part)
            continue
        array = part.detach().float().cpu().numpy() if hasattr(part, "detach") else np.asarray(part)
        if array.size == 0 or not np.isfinite(array).all():
            raise ValueError(f"the output of shape {array.shape} is empty or not finite")
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _parts(output: Any) -> Iterator[Any]:
    if isinstance(output, tuple | list):
        for part in output:
            yield from _parts(part)
    else:
        yield output


def sha256(tree: Path) -> str:
    """Of names and contents of the package in a tree, bytecode left out."""
    digest = hashlib.sha256()
    for path in sorted((tree / PACKAGE).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{content}  {path.relative_to(tree).as_posix()}\n".encode())
    return digest.hexdigest()


def wait_for_device() -> Callable[[], None]:
    torch = sys.modules.get("torch")
    return torch.cuda.synchronize if torch and torch.cuda.is_available() else lambda: None


def set_one_thread() -> None:
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def inference_mode() -> AbstractContextManager[Any]:
    torch = sys.modules.get("torch")
    return torch.inference_mode() if torch else nullcontext()


def _origins() -> Iterator[tuple[str, Path]]:
    """Name and file of every module that has one."""
    for name, module in list(sys.modules.items()):
        if file := getattr(module, "__file__", None):
            yield name, Path(file)


def _by_prompt(asked: list[Any], values: list[float | None]) -> list[float | None]:
    """The mean over the seeds of each prompt, which is the unit of evidence; None where one of them has no value."""
    of: dict[int, list[float | None]] = {}
    for request, value in zip(asked, values, strict=True):
        of.setdefault(request.index, []).append(value)
    known = ([one for one in found if one is not None] for found in of.values())
    return [
        sum(have) / len(found) if len(have) == len(found) else None
        for have, found in zip(known, of.values(), strict=True)
    ]


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
