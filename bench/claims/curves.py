"""From the curves of whole trainings to verdicts: which lie lower, by how much, and how well that is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bench.claims.items import Item
from bench.claims.verdicts import DRAWS, Answers, Finding, Verdict, difference, missing, standard_error
from bench.records import Curve, CurvePoint
from bench.trials import value

ENDS = ((0.0, True), (1.0, True))
"""Settings of the dial between which its effect is measured; what lies beside them is shown, and decides nothing."""


@dataclass(frozen=True)
class Lines:
    """One side of a comparison: items to run, and the names of the trials of each seed's curve, in order.

    anchors: names of the trials between which the remaining gap is measured, its start and then its end, the best of
    several where more are named; without, the scale is ln(1 + FD).

    gflop: of training, a sample, where that was counted.
    """

    name: str
    items: list[Item]
    curves: list[list[str]]
    anchors: tuple[str, ...] | None
    samples: int
    gflop: float | None = None

    def ends(self, answers: Answers) -> tuple[str, str] | None:
        """Names of the trials where the gap starts, and where it ends."""
        if self.anchors is None:
            return None
        start, *ends = self.anchors
        return start, min(ends, key=lambda name: value(answers[name], "fvd-world"))

    def names(self) -> set[str]:
        return {name for one in self.curves for name in one} | set(self.anchors or ())


def heights(lines: Lines, answers: Answers) -> NDArray[np.float64]:
    """(seeds, snapshots): the remaining gap, or ln(1 + FD)."""
    found = np.array([[value(answers[name], "fvd-world") for name in one] for one in lines.curves])
    if (ends := lines.ends(answers)) is None:
        return np.log1p(np.maximum(found, 0.0))
    start, end = (value(answers[name], "fvd-world") for name in ends)
    return (found - end) / (start - end)


Errors = NDArray[np.float64]
"""Draws (DRAWS,) of how far off a mean height is because both ends of its scale are known only so well."""


def errors(lines: Lines, height: float, answers: Answers) -> Errors:
    """Of a mean height; all 0 without anchors. A ratio whose denominator may be near 0 has long tails."""
    if (ends := lines.ends(answers)) is None:
        return np.zeros(DRAWS)
    start, end = (value(answers[name], "fvd-world") for name in ends)
    # By the trial's name: what two lines have in common errs in common.
    starts, stops = (
        value(answers[name], "fvd-world")
        + standard_error(answers[name]) * np.random.default_rng(list(name.encode())).standard_normal(DRAWS)
        for name in ends
    )
    return (end + height * (start - end) - stops) / (starts - stops) - height


def gap_between(worse: Lines, better: Lines, answers: Answers) -> tuple[NDArray[np.float64], Errors]:
    """How much higher `worse` lies on average over the run, (seeds,), and the errors of that mean."""
    high, low = heights(worse, answers), heights(better, answers)
    found = errors(worse, high.mean(), answers) - errors(better, low.mean(), answers)
    return (high - low).mean(axis=1), found


def over_seeds(values: NDArray[np.float64], off: Errors) -> tuple[float, float | None, float | None]:
    """Mean of (seeds,) with its 95 % t interval, each side of which `off` widens; none for one seed."""
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, None, None
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))
    below, above = (math.hypot(half, side) for side in np.quantile(off, [0.025, 0.975]))
    return mean, mean - below, mean + above


def no_headroom(lines: Lines, answers: Answers) -> str:
    """Why the gap between both anchors cannot be told from none; empty where it can."""
    if (ends := lines.ends(answers)) is None:
        return ""
    mean, low, high = difference(*(answers[name] for name in ends))
    if low > 0:
        return ""
    return (
        f"{lines.name}: start and end of the scale differ by {mean:.3g} [{low:.3g}, {high:.3g}]: no headroom"
    )


def advantage(worse: Lines, better: Lines, answers: Answers) -> Finding:
    """How much higher the lines lie that should, on average over the run: a verdict needs an interval above 0."""
    if (waiting := missing(worse.names() | better.names(), answers)) is not None:
        return waiting
    if why := " ".join(filter(None, (no_headroom(lines, answers) for lines in (worse, better)))):
        plain, other = (replace(lines, anchors=None) for lines in (worse, better))
        return Finding("not testable here", note=why, **_figure(plain, other, answers))
    mean, lower, upper = over_seeds(*gap_between(worse, better, answers))
    reproduced = lower is not None and lower > 0
    verdict: Verdict = "reproduced" if reproduced else "not reproduced"
    return Finding(verdict, mean, lower, upper, **_figure(worse, better, answers))


def effect_of_the_dial(
    pairs: Sequence[tuple[Lines, Lines]], dials: Sequence[tuple[float, bool]], answers: Answers
) -> Finding:
    """The advantage where captions state nothing over that where they state all; both with events."""
    names = {name for pair in pairs for lines in pair for name in lines.names()}
    if (waiting := missing(names, answers)) is not None:
        return waiting
    deciding = [lines for dial, pair in zip(dials, pairs, strict=True) if dial in ENDS for lines in pair]
    if why := " ".join(filter(None, (no_headroom(lines, answers) for lines in deciding))):
        return Finding("not testable here", note=why)
    found = {dial: gap_between(*pair, answers) for dial, pair in zip(dials, pairs, strict=True)}
    (none, one), (all_, other) = (found[dial] for dial in ENDS)
    mean, lower, upper = over_seeds(none - all_, one - other)
    beside = [
        f"at {stated:.0%} stated{'' if events else ' and without events'}, which decides nothing, {why}"
        for (stated, events), pair in zip(dials, pairs, strict=True)
        for lines in pair
        if (why := no_headroom(lines, answers))
    ]
    curves = tuple(
        Curve(
            name="with events" if events else "without events",
            points=tuple(
                CurvePoint(x=100 * stated, **dict(zip(("y", "low", "high"), over_seeds(*gaps), strict=True)))
                for (stated, occurs), gaps in found.items()
                if occurs is events
            ),
        )
        for events in (True, False)
    )
    reproduced = lower is not None and lower > 0
    verdict: Verdict = "reproduced" if reproduced else "not reproduced"
    labels = ("% of hidden factors stated", "advantage")
    return Finding(verdict, mean, lower, upper, "; ".join(beside), curves, labels)


def _figure(worse: Lines, better: Lines, answers: Answers) -> dict[str, Any]:
    """Both curves over training samples, or over training FLOPs, where those are what is equal."""
    pair = (worse, better)
    counted = [f"{lines.name} {lines.gflop:.3g}" for lines in pair if lines.gflop is not None]
    over = "training samples" + (f" (of so many GFLOP: {', '.join(counted)})" if counted else "")
    scales = [1.0, 1.0]
    if worse.samples != better.samples and worse.gflop is not None and better.gflop is not None:
        over, scales = "training TFLOP", [worse.gflop / 1000, better.gflop / 1000]
    curves = tuple(_band(lines, scale, answers) for lines, scale in zip(pair, scales, strict=True))
    return {"curves": curves, "labels": (over, "ln(1 + FD)" if worse.anchors is None else "remaining gap")}


def _band(lines: Lines, scale: float, answers: Answers) -> Curve:
    """The mean over seeds at every snapshot, with its 95 % interval; x in samples, times `scale`."""
    found = heights(lines, answers)
    points = []
    for k, values in enumerate(found.T):
        mean, low, high = over_seeds(values, errors(lines, values.mean(), answers))
        x = scale * lines.samples * (k + 1) / found.shape[1]
        points.append(CurvePoint(x=x, y=mean, low=low, high=high))
    return Curve(name=lines.name, points=tuple(points))
