"""What `bench claims` prints: what there is to do, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Column, Table

from bench.claims.items import Item
from bench.claims.verdicts import number
from bench.records import ClaimsTable


def plan(items: Sequence[Item], left: Sequence[Item]) -> Table:
    """What experiments consist of, and what is still to be done."""
    table = Table(Column("item", overflow="fold"), Column("minutes", justify="right"), "state", box=None)
    waiting = {item.name for item in left}
    for item in items:
        table.add_row(item.name, f"{item.minutes:.1f}", "to do" if item.name in waiting else "done")
    total = sum(item.minutes for item in left)
    table.add_row(
        f"{len(left)} of {len(items)} items to do", f"{total:.0f}", "on two recent cores", style="bold"
    )
    return table


def answers(found: ClaimsTable) -> Table:
    """Claim, number, verdict."""
    table = Table("", Column("claim", overflow="fold"), Column("ours", justify="right"), "verdict", box=None)
    for row in found.rows:
        table.add_row(row.id, row.claim, number(row), row.verdict)
    return table
