"""From answers to verdicts: the arithmetic behind every claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bench.records import ClaimRow, Curve, CurvePoint, Score
from bench.trials import Trial, positions, value
from magic141.errors import InputError

Verdict = Literal["reproduced", "not reproduced", "not testable here", "not run yet"]
Answers = Mapping[str, Trial]
"""By the name of the trial."""
GAP_CLOSED = 0.8
"""Least share of the teacher's gap, as a point estimate."""
ACCURACY_LOST = 0.02
"""Most that the interval of the paired difference may reach below 0."""
MOTION = (0.9, 1.1)
"""Of the truth, as a point estimate."""
VARIETY = 0.8
"""What the interval of the ratio of variances must lie above."""
DRAWS = 20_000
NORMAL = 1.96
"""Standard errors either side of a 95 % interval."""
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
    items: list[Any]
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


@dataclass(frozen=True)
class Finding:
    """A verdict with its number, and what a figure of it shows."""

    verdict: Verdict
    value: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""
    curves: tuple[Curve, ...] = ()
    labels: tuple[str, str] = field(default=("", ""))


def number(row: ClaimRow | Finding | Score) -> str:
    """The value with its interval, or a dash."""
    if row.value is None:
        return "–"
    bounds = "" if row.low is None or row.high is None else f" [{row.low:.3g}, {row.high:.3g}]"
    return f"{row.value:.3g}{bounds}"


def missing(names: Sequence[str] | set[str], answers: Answers) -> Finding | None:
    """`not run yet`, where an answer lacks."""
    lacking = [name for name in names if name not in answers]
    if not lacking:
        return None
    return Finding("not run yet", note=f"{len(names) - len(lacking)} of {len(names)} trials done")


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
        + _error(answers[name]) * np.random.default_rng(list(name.encode())).standard_normal(DRAWS)
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


def difference(a: Trial, b: Trial) -> tuple[float, float, float]:
    """FD of a less that of b, with its 95 % interval from those of both, taken as independent and normal."""
    mean = value(a, "fvd-world") - value(b, "fvd-world")
    half = NORMAL * math.hypot(_error(a), _error(b))
    return mean, mean - half, mean + half


def gap_closed(few: str, many: str, student: str, answers: Answers) -> Finding:
    """Share of the gap between the teacher at few and at many steps; `GAP_CLOSED` is asked."""
    if (waiting := missing((few, many, student), answers)) is not None:
        return waiting
    trials = [answers[name] for name in (few, many, student)]
    mean, low, high = difference(trials[0], trials[1])
    if low <= 0:
        return Finding(
            "not testable here", note=f"FD_4 - FD_56 is {mean:.3g} [{low:.3g}, {high:.3g}]: no headroom"
        )
    rng = np.random.default_rng(0)
    start, end, made = (rng.normal(value(t, "fvd-world"), _error(t), DRAWS) for t in trials)
    lower, upper = np.quantile((start - made) / (start - end), [0.025, 0.975])
    share = (value(trials[0], "fvd-world") - value(trials[2], "fvd-world")) / mean
    return Finding(
        "reproduced" if share >= GAP_CLOSED else "not reproduced", share, float(lower), float(upper)
    )


def steps_beaten(many: str, student: str, answers: Answers) -> Finding:
    """FD of the teacher at many steps less the student's: above 0 is asked of the whole interval."""
    if (waiting := missing((many, student), answers)) is not None:
        return waiting
    mean, low, high = difference(answers[many], answers[student])
    return Finding("reproduced" if low > 0 else "not reproduced", mean, low, high)


def accuracy_kept(many: str, student: str, answers: Answers) -> Finding:
    """Paired difference of accuracy; the interval must lie above `-ACCURACY_LOST`."""
    if (waiting := missing((many, student), answers)) is not None:
        return waiting
    from evals.statistics import paired_difference

    found = paired_difference(answers[student].accuracy, answers[many].accuracy)
    verdict: Verdict = "reproduced" if found.low > -ACCURACY_LOST else "not reproduced"
    return Finding(verdict, found.value, found.low, found.high)


def motion_kept(student: str, answers: Answers) -> Finding:
    """Motion over truth; `MOTION` is asked of the value."""
    if (waiting := missing((student,), answers)) is not None:
        return waiting
    score = answers[student].scores["motion-ratio"]
    ratio = value(answers[student], "motion-ratio")
    return Finding(
        "reproduced" if MOTION[0] <= ratio <= MOTION[1] else "not reproduced", ratio, score.low, score.high
    )


Three = tuple[str, str, str]
"""Names of the trials of the teacher at few and at many steps, and of the student."""


def confirmed(first: Three, again: Three, answers: Answers) -> Finding:
    """Whether all that is asked of the student but variety comes out as before on other prompts."""
    if (waiting := missing((*first, *again), answers)) is not None:
        return waiting

    def asked(few: str, many: str, student: str) -> dict[str, Finding]:
        return {
            "d1": gap_closed(few, many, student, answers),
            "d2": accuracy_kept(many, student, answers),
            "d3": motion_kept(student, answers),
            "d5": steps_beaten(many, student, answers),
        }

    before, after = asked(*first), asked(*again)
    same = all(before[name].verdict == after[name].verdict for name in before)
    note = "; ".join(
        f"{name} {number(found)}{'' if found.verdict == before[name].verdict else f', {found.verdict}'}"
        for name, found in after.items()
    )
    share = after["d1"]
    if share.value is None:
        return Finding("not testable here", note=note)
    return Finding("reproduced" if same else "not reproduced", share.value, share.low, share.high, note)


def diversity_kept(student: str, teacher: str, answers: Answers) -> Finding:
    """Pooled ratio of variances; the interval must lie above `VARIETY`."""
    if (waiting := missing((student, teacher), answers)) is not None:
        return waiting
    from evals.diversity import variance_ratio

    scenes = answers[student].sample.scenes()
    found = variance_ratio(positions(answers[student]), positions(answers[teacher]), scenes)
    note = f"{found.ratio.n} open prompts; subjects found: student {found.found[0]:.0%}, teacher {found.found[1]:.0%}"
    verdict: Verdict = "reproduced" if found.ratio.low > VARIETY else "not reproduced"
    return Finding(verdict, found.ratio.value, found.ratio.low, found.ratio.high, note)


def _error(trial: Trial) -> float:
    """Standard error of the trial's FD. Raises InputError where it has no interval: that is not certainty."""
    score = trial.scores["fvd-world"]
    if score.low is None or score.high is None:
        raise InputError(f"fvd-world of {trial.knobs.get('model')} has no interval: ask more prompts")
    return (score.high - score.low) / (2 * NORMAL)


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
