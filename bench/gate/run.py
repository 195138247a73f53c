"""A gate from two refs to findings: trees, counters, scores, then restarts until the policy has said its word."""

from __future__ import annotations

import datetime
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from bench import systems
from bench.errors import InvalidGateError
from bench.gate import trees, verdicts
from bench.gate.baseline import Baseline, fingerprint
from bench.gate.config import Gates
from bench.gate.journal import Blocks, Counted, Entry, Header, Journal, Scored, Side
from bench.gate.trees import Tree
from bench.gate.verdicts import Finding
from bench.gate.workers import Workers, third_party
from bench.gate_policy import Decision, Restart, decide
from bench.records import RecordError
from magic141.errors import Magic141Error

QUALITY_BATCH = 8
BASE, HEAD = "base", "head"


@dataclass(frozen=True)
class Result:
    """What a gate found. `restarts` and `counted` are by cell, for records; `stored`: base was not measured."""

    base: str
    head: str
    fingerprint: str
    started: datetime.datetime
    seconds: float
    findings: list[Finding]
    journal: Path | None = None
    trees: dict[str, Tree] = field(default_factory=dict)
    restarts: dict[str, list[Restart]] = field(default_factory=dict)
    counted: dict[str, Counted] = field(default_factory=dict)
    stored: bool = False

    @property
    def verdict(self) -> verdicts.Verdict:
        return verdicts.overall(self.findings)


@dataclass(frozen=True)
class Question:
    """What a gate is asked. `repository` is where the refs are looked up, by default the invoking tree; `complete`
    goes on to the last look when an earlier one has decided, which changes no verdict: baselines need all restarts.
    """

    base: str
    head: str
    gates: Gates
    journal: Path
    baseline: Baseline | None = None
    repository: Path | None = None
    complete: bool = False
    say: Callable[[str], None] = lambda text: None


def run(question: Question) -> Result:
    """Answers a question. What makes an answer impossible is a finding INVALID.

    Raises SuiteError, RunError, RecordError for input that is wrong; KeyboardInterrupt leaves the journal.
    """
    started, clock = datetime.datetime.now(datetime.UTC), perf_counter()
    common = (question.base, question.head, fingerprint(), started)
    question.gates.refuse_expired(started.date())
    try:
        with tempfile.TemporaryDirectory(prefix="gate-") as work, ExitStack() as stack:
            gate = Gate(question, Path(work), stack)
            gate.measure()
            found = verdicts.waive(gate.findings(), question.gates.waivers)
            return Result(
                *common,
                perf_counter() - clock,
                found,
                question.journal,
                gate.trees,
                {cell: gate.journal.restarts(cell) for cell in question.gates.cells},
                {cell: one for cell in question.gates.cells if (one := gate.journal.counted(cell))},
                stored=question.baseline is not None,
            )
    except InvalidGateError as error:
        reason = str(error)
    except (Magic141Error, RecordError):  # the input is wrong
        raise
    except Exception as error:  # a gate that breaks has said nothing: never FAIL, and never a pass
        reason = f"the gate broke: {type(error).__name__}: {error}"
    return Result(*common, perf_counter() - clock, [Finding("gate", "run", "INVALID", detail=reason)])


class Gate:
    """One gate at work. `stack` ends its processes."""

    def __init__(self, question: Question, work: Path, stack: ExitStack) -> None:
        """Raises InvalidGateError, RunError for trees that cannot be compared."""
        self._question, self._work = question, work
        self._gates, self._say = question.gates, question.say
        trees.copy_harness(work / "harness")
        base = trees.extract(question.base, work / BASE, question.repository)
        head = trees.extract(question.head, work / HEAD, question.repository)
        trees.check_distinct(base, head)
        baseline = question.baseline
        if baseline is not None:
            baseline.check(base, self._gates)
        header = Header(
            gates=self._gates.id,
            base=base.id,
            head=head.id,
            fingerprint=fingerprint(),
            base_records=baseline.id if baseline else "",
        )
        self.journal = Journal.open(question.journal, header)
        self.trees = {BASE: base, HEAD: head}
        self._workers = Workers(self._gates, self.trees, work, stack, self._say)

    def measure(self) -> None:
        """Adds to the journal what it lacks. Stops at counters that are INVALID: nothing later could be a pass."""
        for cell in self._gates.cells:
            if self.journal.counted(cell) is None:
                self._say(f"{cell}: counters")
                self.journal.add(Entry(counted=self._count(cell)))
        if verdicts.overall(self._counter_findings()) == "INVALID":
            return
        if self._gates.quality and self.journal.scored() is None:
            self._say("quality: the same prompts for both")
            self.journal.add(Entry(scored=self._score()))
        while cells := [cell for cell in self._gates.cells if self._wants(cell)]:
            decided = len(self._gates.cells) - len(cells)
            number = self.journal.number_of_restarts
            self._say(
                f"restart {number + 1} of {self._gates.policy.restarts[-1]} at most, {decided} cells decided"
            )
            self.journal.add(Entry(restart=self._restart(cells, number)))

    def _wants(self, cell: str) -> bool:
        if self._question.complete:
            return len(self.journal.restarts(cell)) < self._gates.policy.restarts[-1]
        return not self.decision(cell).final

    def decision(self, cell: str) -> Decision:
        """What the policy says now. Before the first restart it wants one."""
        restarts = self.journal.restarts(cell)
        if not restarts:
            return Decision("INCONCLUSIVE", math.nan, 0.0, math.inf, 0, 0, False, "nothing is measured yet")
        return decide(restarts, self._gates.policy, cells=len(self._gates.cells))

    def findings(self) -> list[Finding]:
        found = [self._latency(cell) for cell in self._gates.cells if self.journal.restarts(cell)]
        found += self._counter_findings()
        scored = self.journal.scored()
        if self._gates.quality and scored:
            found += verdicts.quality(scored, self._gates.quality.margins)
        return found

    def _latency(self, cell: str) -> Finding:
        restarts = self.journal.restarts(cell)
        base = float(np.median([seconds for one in restarts for seconds in one.base]))
        head = float(np.median([seconds for one in restarts for seconds in one.head]))
        stored = self._question.baseline is not None
        return verdicts.latency(cell, self.decision(cell), base, head, stored)

    def _counter_findings(self) -> list[Finding]:
        counted = [self.journal.counted(cell) for cell in self._gates.cells]
        return [finding for one in counted if one for finding in verdicts.counters(one, self._gates)]

    def _count(self, cell: str) -> Counted:
        """Both trees at once: counters do not mind company. The servers learn what to import from these workers."""
        with self._workers.pair([cell], (BASE, HEAD)) as pair:
            for worker in pair.values():
                worker.send("counters", cell=cell)
            sides = {name: self._side(worker.receive()) for name, worker in pair.items()}
            for name, worker in pair.items():
                inventory = worker.ask("inventory")
                tree = self.trees[name]
                if inventory["sha256"] != tree.sha256:
                    raise InvalidGateError(f"{name} has measured a tree that is not the one of {tree.label}")
                self._workers.server(tree).preload(inventory["modules"])
        if self._question.baseline is not None:
            sides[BASE] = self._question.baseline.side(cell)
        return Counted(cell=cell, base=sides[BASE], head=sides[HEAD])

    @staticmethod
    def _side(answer: dict[str, Any]) -> Side:
        """JSON has no NaN: what is not finite is missing."""
        numbers = {
            name: value if isinstance(value, int | float) and math.isfinite(value) else None
            for name, value in answer["counters"].items()
        }
        return Side(counters=numbers, output=answer["output"])

    def _restart(self, cells: Sequence[str], number: int) -> dict[str, Blocks]:
        """A fresh pair of workers, which pass the token in `order` within a cell."""
        baseline = self._question.baseline
        names = forks(number) if baseline is None else (HEAD,)
        found = {}
        with self._workers.pair(cells, names) as pair:
            for cell in cells:
                spec = self._gates.cells[cell]
                seconds: dict[str, list[float]] = {BASE: [], HEAD: []}
                for base_first in order(spec.pairs, number):
                    for name in (BASE, HEAD) if base_first else (HEAD, BASE):
                        if name in pair:
                            took = pair[name].ask("block", cell=cell, passes=spec.passes)["seconds"]
                            if not (math.isfinite(took) and took > 0):
                                raise InvalidGateError(f"{name} says that a block of {cell} took {took} s")
                            seconds[name].append(took)
                if baseline is not None:
                    seconds[BASE] = list(baseline.restart(cell, number))
                found[cell] = Blocks(base=tuple(seconds[BASE]), head=tuple(seconds[HEAD]))
        return found

    def _score(self) -> Scored:
        quality = self._gates.quality
        assert quality is not None
        # Scenes stay here: their class is another one in another tree. The scorer makes them anew.
        asked = [(one.index, one.prompt, one.seed) for one in quality.requests()]
        libraries = systems.find(quality.adapter).imports
        outputs, folders = [], []
        for name, tree in self.trees.items():
            folder = self._work / f"clips-{name}"
            folder.mkdir()
            self._workers.server(tree).preload(third_party(libraries))
            with self._workers.one(tree, name, limit=self._gates.time_limit * len(asked)) as worker:
                answer = worker.ask(
                    "generate",
                    adapter=quality.adapter,
                    knobs=quality.knobs,
                    requests=asked,
                    batch=QUALITY_BATCH,
                    to=str(folder),
                )
            outputs.append(answer["output"])
            folders.append(str(folder))
        if outputs[0] == outputs[1]:
            return Scored(same=True)
        judge = trees.extract(trees.WORKTREE, self._work / "judge")
        with self._workers.one(judge, "scorer", limit=self._gates.time_limit * len(asked)) as worker:
            dumped = quality.model_dump(mode="json")
            base, head = worker.ask("score", quality=dumped, folders=folders)["scores"]
        return Scored(same=False, base=base, head=head)


def forks(restart: int) -> tuple[str, str]:
    """Which worker of a restart is forked first: in turns, and independently of who begins its blocks (`order`).

    The second one may be slower as long as it lives: it found the memory that the first one left.
    """
    return (BASE, HEAD) if restart // 2 % 2 == 0 else (HEAD, BASE)


def order(pairs: int, restart: int) -> Iterator[bool]:
    """Whether base comes first, for each pair of a restart: A B B A B A A B, from the other side every other restart.

    The Thue-Morse sequence: linear drift cancels over four blocks, quadratic drift over eight.
    """
    for pair in range(pairs):
        yield (pair.bit_count() + restart) % 2 == 0


def default_journal(out: Path) -> Path:
    """A name that no earlier gate has: a process may judge more than one gate a second."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S-%f")
    return out / f"gate-{stamp}-{os.getpid()}.jsonl"
