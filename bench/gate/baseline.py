"""Stored baselines: what a gate has measured of a tree, as records of kind `gate`, instead of base in a later gate."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from bench import hardware, systems
from bench.errors import RunError
from bench.gate.config import CellSpec, Gates
from bench.gate.journal import Side
from bench.gate.trees import Tree
from bench.records import Record, Store, Timing, digest

if TYPE_CHECKING:
    from bench.gate.run import Result

CALL = "call"
_HARNESS = ("gate", "measure.py")


def fingerprint() -> str:
    """Hash of machine, packages and harness. The trees under test are the question and no part of it."""
    environment = hardware.environment(threads=1)
    fields = environment.model_dump(
        mode="json", exclude={"commit", "dirty", "source_sha256", "constraints_sha256"}
    )
    bench = hardware.ROOT / "bench"
    files = [path for name in _HARNESS for path in sorted([*bench.glob(name), *bench.glob(f"{name}/*.py")])]
    texts = [path.read_text(encoding="utf-8") for path in files if path.is_file()]
    return digest([fields, texts])


def question(spec: CellSpec, knobs: object) -> str:
    """Id of a cell: what is called, as it stands in its file, and in which blocks."""
    source = inspect.getsource(inspect.getmodule(systems.find(spec.workload)) or systems)
    return digest([spec.workload, source, knobs, spec.pairs, spec.passes])


@dataclass(frozen=True)
class Baseline:
    """Records of one FILE. `check` comes first; the others answer for the tree and the gates that it was given."""

    path: Path
    records: dict[str, Record]

    @classmethod
    def read(cls, path: Path, base: str) -> Self:
        """Raises RecordError, RunError where FILE is not there or empty."""
        if not path.is_file():
            raise RunError(
                f"there are no stored baselines {path}: make some with `gate --base {base} --record`"
            )
        return cls(path, {})

    @property
    def id(self) -> str:
        return digest([record.model_dump(mode="json") for record in self.records.values()])

    def check(self, base: Tree, gates: Gates) -> None:
        """Raises RunError unless FILE has every cell of `gates`, for this tree, from this environment."""
        mine = fingerprint()
        found = Store.at(self.path).records()
        for name, spec in gates.cells.items():
            wanted = question(spec, gates.knobs(name))
            same = [
                one
                for one in found
                if one.cell == wanted and one.kind == "gate" and one.knobs["tree"] == base.id
            ]
            if not same:
                raise RunError(
                    f"{self.path} has no baseline of cell {name} for {base.label}: record one with "
                    "`python -m bench gate --record FILE`"
                )
            fitting = [one for one in same if one.fingerprint == mine]
            if not fitting:
                raise RunError(
                    f"{self.path}: cell {name} has fingerprint {same[-1].fingerprint}, and this machine with its "
                    f"packages and harness {mine}: seconds of another environment are no baseline, record it here"
                )
            blocks, needed = fitting[-1].stages[CALL].samples, gates.policy.restarts[-1] * spec.pairs
            if len(blocks) < needed:
                raise RunError(
                    f"{self.path}: cell {name} has {len(blocks)} blocks, and the last look of the policy needs "
                    f"{needed}: record it again"
                )
            self.records[name] = fitting[-1]

    def side(self, cell: str) -> Side:
        record = self.records[cell]
        return Side(counters=dict(record.counters), output=str(record.knobs["output"]))

    def restart(self, cell: str, number: int) -> tuple[float, ...]:
        """Seconds of the blocks of its restart `number`."""
        samples = self.records[cell].stages[CALL].samples
        pairs = int(len(samples) / self.records[cell].stages[CALL].n)
        return samples[number * pairs : (number + 1) * pairs]


def records(result: Result, gates: Gates, command: str) -> list[Record]:
    """One record a cell and side, for trees that were really measured."""
    found = []
    for name, spec in gates.cells.items():
        for side, tree in result.trees.items():
            knobs = gates.knobs(name)
            counted = getattr(result.counted[name], side)
            samples = [value for one in result.restarts[name] for value in getattr(one, side)]
            found.append(
                Record(
                    kind="gate",
                    cell=question(spec, knobs),
                    fingerprint=result.fingerprint,
                    suite="gate",
                    system=f"{name} of {tree.label}",
                    knobs={**knobs, "tree": tree.id, "output": counted.output},
                    outcome="ok",
                    stages={CALL: _timing(samples, len(result.restarts[name]))},
                    counters={key: value for key, value in counted.counters.items() if value is not None},
                    flags=(f"gate: {result.verdict}", side),
                    command=command,
                    started=result.started,
                    seconds=result.seconds,
                )
            )
    return found


def _timing(samples: Sequence[float], restarts: int) -> Timing:
    """`n` is the number of restarts: they are the evidence, blocks of one are not."""
    return Timing(median=float(np.median(samples)), n=restarts, samples=tuple(samples))
