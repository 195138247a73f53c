"""What `bench gate-power` does: simulate under a progress bar, print tables, write JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.progress import Progress
from rich.table import Column, Table

from bench import gate_intervals
from bench.baselines.fake_clock import CLOCKS
from bench.errors import RunError
from bench.gate_intervals import Coverage
from bench.gate_policy import Policy
from bench.gate_power import CELLS, OURS, PAIRS, SLOWDOWNS, Tally, chunks, simulate
from bench.gate_rivals import RIVALS
from bench.records import write_atomically


def run(gates: int, seed: int, methods: bool, path: Path | None, console: Console) -> None:
    """Raises RunError where `path` lies in no folder, before anything is simulated."""
    if path is not None and not path.absolute().parent.is_dir():
        raise RunError(f"--json {path}: the folder {path.parent} does not exist; make it, or name another")
    if path is not None and path.is_dir():
        raise RunError(f"--json {path} is a folder: name a file in it")
    policy = Policy()
    rows: Sequence[Tally] | Sequence[Coverage]
    steps = _method_steps() if methods else len(CLOCKS) * chunks(gates)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("simulating", total=steps)

        def advance(name: str) -> None:
            progress.update(task, advance=1, description=name)

        if methods:
            rows = list(gate_intervals.compare(gates, seed, advance))
            shown: Group | Table = method_table(rows)
        else:
            rows = list(simulate(gates, seed, policy, advance))
            shown = tables(rows)
    console.print(shown)
    if path is not None:
        about: dict[str, Any] = {"seed": seed, "pairs": PAIRS, "cells": CELLS}
        about |= {"error": gate_intervals.ERROR} if methods else {"policy": policy.model_dump(mode="json")}
        answer = about | {"rows": [_plain(row) for row in rows]}
        write_atomically(path, json.dumps(answer, indent=1) + "\n")


def _plain(row: Tally | Coverage) -> dict[str, Any]:
    return asdict(row) | ({"rate": row.rate, "upper95": row.upper} if isinstance(row, Tally) else {})


def _method_steps() -> int:
    return len(gate_intervals.MACHINES) * len(gate_intervals.RESTARTS)


def tables(tallies: Sequence[Tally]) -> Group:
    """Our policy in full, then the others beside it."""
    found = {(tally.clock, tally.rule, tally.slowdown): tally for tally in tallies}
    caught = [slowdown for slowdown in SLOWDOWNS if slowdown]
    ours = Table(
        Column("machine", no_wrap=True),
        "false alarms",
        *(f"{slowdown:.0%} caught" for slowdown in caught),
        "unchanged: PASS",
        "5% slower: PASS",
        "restarts",
        title=f"our policy, one cell of {CELLS}, {tallies[0].gates} gates a number (in brackets: upper 95% bound)",
    )
    others = Table(
        Column("machine", no_wrap=True),
        *(Column(rule, no_wrap=True) for rule in RIVALS),
        title="false alarms / 5% caught / 10% caught",
    )
    for name in dict.fromkeys(tally.clock for tally in tallies):
        still, slow = found[name, OURS, 0.0], found[name, OURS, 0.05]
        ours.add_row(
            name,
            _alarms(still),
            *(_percent(found[name, OURS, slowdown].rate) for slowdown in caught),
            _percent(still.passes / still.gates),
            _percent(slow.passes / slow.gates),
            f"{still.restarts / still.gates:.1f}",
        )
        others.add_row(name, *(_beside([found[name, rule, s] for s in (0.0, 0.05, 0.10)]) for rule in RIVALS))
    return Group(ours, others)


def _alarms(tally: Tally) -> str:
    return f"{_percent(tally.rate)} (≤ {_percent(tally.upper)})"


def _beside(tallies: Sequence[Tally]) -> str:
    return " / ".join(_percent(tally.rate) for tally in tallies)


def _percent(share: float) -> str:
    return f"{share:.2%}" if 0 < share < 0.1 or 0.99 < share < 1 else f"{share:.1%}"


def method_table(rows: Sequence[Coverage]) -> Table:
    """Wrong bounds of an unchanged head, and bounds above 1 of a head 5 % slower, by number of restarts."""
    found = {(row.machine, row.method, row.restarts): row for row in rows}
    table = Table(
        Column("machine", no_wrap=True),
        Column("method", no_wrap=True),
        *(f"{count} restarts: wrong" for count in gate_intervals.RESTARTS),
        *(f"{count} restarts: 5% seen" for count in gate_intervals.RESTARTS),
        title=f"one-sided bounds of nominal {gate_intervals.ERROR:.1%} error, {rows[0].gates} gates a number",
    )
    for machine, method in dict.fromkeys((row.machine, row.method) for row in rows):
        cells = [found[machine, method, count] for count in gate_intervals.RESTARTS]
        wrong = (_percent(cell.errors / cell.gates) for cell in cells)
        seen = (_percent(cell.caught / cell.gates) for cell in cells)
        table.add_row(machine, method, *wrong, *seen)
    return table
