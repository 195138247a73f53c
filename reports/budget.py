"""Which setting for a budget? The fastest and the smallest within 2, 5 and 10 % of the dense quality of most steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.settings import Setting

SHARES = (0.02, 0.05, 0.10)


@dataclass(frozen=True)
class Choice:
    """Within `share` of the baseline's quality: the fastest setting, and the one with the smallest peak memory."""

    share: float
    fastest: Setting
    smallest: Setting | None


@dataclass(frozen=True)
class Budget:
    """`settings` are what a reader's own limits choose from; `choices` are made already."""

    baseline: Setting
    settings: tuple[Setting, ...]
    choices: tuple[Choice, ...]


def budget(found: Sequence[Setting]) -> Budget | None:
    """The panel's content, of one environment; None without a dense setting whose steps are known."""
    dense = [one for one in found if one.row.steps and one.row.knobs.get("sparsity", "none") == "none"]
    if not dense:
        return None
    # Of equal step counts the best one, so that the bar is not lowered by a bad system.
    baseline = min(dense, key=lambda one: (-(one.row.steps or 0), one.point.cost))
    found = [one for one in found if one.row.environment == baseline.row.environment]
    choices = []
    for share in SHARES:
        reached = [one for one in found if one.point.cost <= allowed(baseline, share)]
        # Of one kind: live tensors of one and the resident set of another say nothing about which is smaller.
        kind = baseline.peak.kind if baseline.peak else None
        sized = [one for one in reached if one.peak and kind in (None, one.peak.kind)]
        choices.append(
            Choice(
                share,
                min(reached, key=lambda one: (one.seconds, one.point.cost)),
                min(sized, key=lambda one: (one.size, one.seconds), default=None),
            )
        )
    return Budget(baseline, tuple(found), tuple(choices))


def allowed(baseline: Setting, share: float) -> float:
    """The most cost within `share` of the baseline's value, or of its distance from a target."""
    return baseline.point.cost + share * abs(baseline.point.cost)
