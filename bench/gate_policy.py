"""What a regression gate says about latency: PASS, FAIL, INCONCLUSIVE or INVALID, from restarts of paired workers.

The restart is the unit of evidence, not the block: blocks of one restart share its address layout and its clock, and
agree with each other on a ratio that other restarts contradict. docs/gates.md has the reasons and the figures.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy import stats

from magic141.errors import InputError

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID"]
Array = NDArray[np.float64]
MAX_LOOKS = 3
MIN_RESTARTS = 12
TRIM = 0.25
"""Share of a restart's pairs cut at either end: of eight blocks two are cut off, however long they took."""
SPENDING = 0.5
"""Error spent by a look at the share t of the restarts is t to this power (Kim & DeMets 1987): above t, so that
what is clear is said at the first look."""


@dataclass(frozen=True)
class Restart:
    """Seconds of a call in each block of one fresh pair of workers; base[i] and head[i] are neighbours in time, in
    balanced order (ABBA…)."""

    base: tuple[float, ...]
    head: tuple[float, ...]


class Policy(BaseModel):
    """What counts as a regression, and how often the gate may be wrong. Both thresholds must be crossed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    relative: float = Field(0.03, gt=0, lt=1, description="smallest slow-down that fails, as a share of base")
    absolute_seconds: float = Field(0.0, ge=0, allow_inf_nan=False, description="the same, in seconds a call")
    restarts: tuple[int, ...] = Field((12, 18, 24), description="restarts in all at each look")
    alpha: float = Field(
        0.005, gt=0, lt=0.5, description="chance of FAIL for an unchanged head, over all looks and all cells"
    )
    beta: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="chance of PASS, over all looks, for a head that is slower by the threshold",
    )

    @model_validator(mode="after")
    def _looks(self) -> Self:
        if not 1 <= len(self.restarts) <= MAX_LOOKS:
            raise ValueError(
                f"`restarts` has {len(self.restarts)} looks: name one to {MAX_LOOKS}, such as [12, 18, 24]"
            )
        if self.restarts[0] < MIN_RESTARTS:
            raise ValueError(
                f"`restarts` starts at {self.restarts[0]}: fewer than {MIN_RESTARTS} tell too little, raise it"
            )
        if any(later <= earlier for earlier, later in zip(self.restarts, self.restarts[1:], strict=False)):
            raise ValueError(f"`restarts` are cumulative and must grow, got {list(self.restarts)}")
        return self


@dataclass(frozen=True)
class Decision:
    """`ratio`: median over restarts of head / base, inside [low, high]; `look` counts from 1 (0: before the first).

    `final` is False where the policy has another look and this one said nothing: measure on.
    """

    verdict: Verdict
    ratio: float
    low: float
    high: float
    look: int
    restarts: int
    final: bool
    reason: str


class Look(NamedTuple):
    """How many restarts it sees, and the order statistics that bound their median: 0 where none is far enough out."""

    restarts: int
    low_depth: int
    high_depth: int


def decide(restarts: Sequence[Restart], policy: Policy, *, cells: int = 1) -> Decision:
    """What the policy says at this number of restarts, one of `cells` cells of a gate.

    Looks are taken in order, each at the first restarts that it needs, and the first that says something stands:
    later restarts cannot turn it. Restarts beyond the last look are not read, except that all must be valid.

    Raises:
        InputError: `cells` is below 1.
    """
    plan = looks(policy, cells)
    if fault := _fault(restarts):
        return Decision("INVALID", math.nan, math.nan, math.nan, 0, len(restarts), True, fault)
    ratios = np.array([log_ratio(np.array(one.base), np.array(one.head)) for one in restarts])
    levels = np.array([np.median(one.base) for one in restarts])
    decision = Decision(
        "INCONCLUSIVE",
        math.exp(np.median(ratios)),
        0.0,
        math.inf,
        0,
        len(restarts),
        False,
        f"{len(restarts)} of {plan[0].restarts} restarts before the first look",
    )
    for number, look in enumerate(plan, 1):
        if look.restarts > len(restarts):
            break
        seen = ratios[: look.restarts]
        decision = _at(number, look, seen, float(np.median(levels[: look.restarts])), policy)
        if decision.verdict != "INCONCLUSIVE":
            break
    return decision


def _at(number: int, look: Look, ratios: Array, level: float, policy: Policy) -> Decision:
    """The decision of one look; `level` is the seconds of a call of base."""
    interval = bounds(ratios, look)
    fails, passes = judge(*interval, np.asarray(level), policy)
    low, ratio, high = (math.exp(value) for value in interval)
    limit = 1 + float(threshold(np.asarray(level), policy))
    last = number == len(policy.restarts)
    verdict: Verdict = "INCONCLUSIVE"
    if fails:
        verdict, why = "FAIL", f"the interval excludes 1 and the median reaches × {limit:.3f}"
    elif passes:
        verdict, why = "PASS", f"a slow-down of × {limit:.3f} is excluded"
    elif ratio >= limit:
        why = f"the median reaches × {limit:.3f}, but the interval includes 1"
    else:
        why = f"the interval includes a slow-down of × {limit:.3f}"
    where = f"look {number} of {len(policy.restarts)}, {look.restarts} restarts"
    reason = f"× {ratio:.3f} [{low:.3f}, {high:.3f}] ({where}): {why}"
    final = last or verdict != "INCONCLUSIVE"
    return Decision(verdict, ratio, low, high, number, look.restarts, final, reason)


def judge(
    low: Array, ratio: Array, high: Array, level: Array, policy: Policy
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which gates FAIL and which PASS, never both; logs of ratios, and the seconds of a call of base. All (...)."""
    limit = np.log1p(threshold(level, policy))
    return (low > 0) & (ratio >= limit), np.asarray(high < limit)


def threshold(level: Array, policy: Policy) -> Array:
    """The slow-down, as a share of base, that crosses both thresholds; `level` is the seconds of a call of base."""
    return np.maximum(policy.relative, policy.absolute_seconds / level)


def log_ratio(base: Array, head: Array) -> Array:
    """Log of head / base of a restart: mean of its pairs' logs without the outer quarters. (..., pairs) -> (...)."""
    logs = np.sort(np.log(head) - np.log(base), axis=-1)  # as scipy.stats.trim_mean, at a tenth of its time
    pairs = logs.shape[-1]
    cut = int(TRIM * pairs)
    return np.asarray(logs[..., cut : pairs - cut].mean(axis=-1))


def bounds(ratios: Array, look: Look) -> tuple[Array, Array, Array]:
    """Lower bound, median and upper bound over restarts: (..., restarts) -> three of (...); infinite at depth 0."""
    ordered = np.sort(ratios, axis=-1)
    beyond = np.full(ordered.shape[:-1], np.inf)
    low = ordered[..., look.low_depth - 1] if look.low_depth else -beyond
    high = ordered[..., look.restarts - look.high_depth] if look.high_depth else beyond
    return low, np.median(ordered, axis=-1), high


@functools.cache
def looks(policy: Policy, cells: int = 1) -> tuple[Look, ...]:
    """The looks of a policy, for one of `cells` cells.

    A gate fails where one cell fails, so `alpha` is divided by the cells (Bonferroni; Holm's first step is the same,
    and the first FAIL is what counts). It passes where all cells pass, so a wrong PASS needs the very cell that is
    slow to pass, and `beta` is not divided (intersection-union).

    Raises:
        InputError: `cells` is below 1.
    """
    if cells < 1:
        raise InputError(f"a gate of {cells} cells decides nothing: name 1 or more")
    lows, highs = depths(policy.restarts, policy.alpha / cells), depths(policy.restarts, policy.beta)
    return tuple(Look(*one) for one in zip(policy.restarts, lows, highs, strict=True))


def depths(restarts: tuple[int, ...], error: float) -> tuple[int, ...]:
    """Depth of the order statistic that bounds the median from one side at each look, 0 where none may.

    Exact: a restart lies below the median with chance 1/2, independently of the others and whatever its spread. The
    bound of depth d is wrong where fewer than d restarts lie below; the chance that this happens at a look and at none
    before is summed along all paths, and stays within what `SPENDING` allows up to that look.
    """
    below = np.ones(1)  # chance of each number of restarts below the median, on paths without an error so far
    spent, seen, found = 0.0, 0, []
    for count in restarts:
        added = count - seen
        below = np.convolve(below, stats.binom.pmf(np.arange(added + 1), added, 0.5))
        allowed = error * (count / restarts[-1]) ** SPENDING - spent
        depth = min(int((np.cumsum(below) <= allowed).sum()), count // 2)
        spent += float(below[:depth].sum())
        below[:depth] = 0
        seen = count
        found.append(depth)
    return tuple(found)


def _fault(restarts: Sequence[Restart]) -> str:
    """What makes these numbers unfit for any verdict; empty where nothing does."""
    if not restarts:
        return "no restart was measured"
    for place, one in enumerate(restarts, 1):
        if len(one.base) != len(one.head) or not one.base:
            return (
                f"restart {place} has {len(one.base)} blocks of base and {len(one.head)} of head: "
                "each needs its neighbour"
            )
        for side, blocks in (("base", one.base), ("head", one.head)):
            bad = [value for value in blocks if not _is_seconds(value)]
            if bad:
                return f"restart {place} measured {bad[0]!r} seconds for a block of {side}"
    return ""


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0
