"""Workers of a gate: a server for each interpreter, and fresh processes that are checked when they have done."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import systems
from bench.errors import InvalidGateError
from bench.gate import environments
from bench.gate.config import Gates
from bench.gate.processes import Remote, Server
from bench.gate.trees import Tree

WARM_UP = 1
"""Passes of a cell that a worker makes before any counts."""


class Workers:
    """All that a gate starts. `trees` are those that it compares, by name; `stack` ends the servers."""

    def __init__(
        self,
        gates: Gates,
        trees: Mapping[str, Tree],
        work: Path,
        stack: ExitStack,
        say: Callable[[str], None],
    ) -> None:
        self._gates, self._trees, self._work, self._stack, self._say = gates, trees, work, stack, say
        self._servers: dict[str, Server] = {}
        self._pythons = {tree.path: environments.interpreter(tree, say) for tree in trees.values()}

    @contextlib.contextmanager
    def pair(self, cells: Sequence[str], names: Sequence[str]) -> Iterator[dict[str, Remote]]:
        """Fresh workers with `cells` loaded, all at once: only measuring takes turns. `names` are forked in order."""
        specs = {
            cell: {
                "workload": self._gates.cells[cell].workload,
                "knobs": self._gates.knobs(cell),
                "warmup": WARM_UP,
            }
            for cell in cells
        }
        with ExitStack() as stack:
            pair = {name: stack.enter_context(self.one(self._trees[name], name)) for name in names}
            for worker in pair.values():
                worker.send("load", cells=specs)
            for worker in pair.values():
                worker.receive()
            yield pair

    @contextlib.contextmanager
    def one(self, tree: Tree, name: str, limit: float | None = None) -> Iterator[Remote]:
        """A fresh worker. Raises InvalidGateError where its `magic141` turns out to be another tree's."""
        worker = self.server(tree).fork(tree, name, limit or self._gates.time_limit)
        try:
            yield worker
            seen = worker.ask("identity")
        finally:
            worker.close()
        if Path(seen["path"]) != tree.path or seen["strangers"]:
            wrong = ", ".join([seen["path"], *seen["strangers"][:3]])
            raise InvalidGateError(f"{name} was to import magic141 from {tree.path} and has {wrong}")

    def server(self, tree: Tree) -> Server:
        """One for each interpreter, with the declared imports of all workloads."""
        if tree.path not in self._pythons:
            self._pythons[tree.path] = environments.interpreter(tree, self._say)
        python = self._pythons[tree.path]
        if python not in self._servers:
            self._say("importing libraries, once")
            server = Server(python, self._work, f"server-{len(self._servers)}")
            self._servers[python] = self._stack.enter_context(server)
            wanted = [systems.find(spec.workload).imports for spec in self._gates.cells.values()]
            server.preload(list(dict.fromkeys(name for names in wanted for name in names)))
        return self._servers[python]


def third_party(modules: Sequence[str]) -> list[str]:
    """Modules that belong to no tree."""
    return [name for name in modules if name.split(".")[0] not in ("magic141", "bench", "evals")]
