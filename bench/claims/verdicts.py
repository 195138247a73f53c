"""From answers to verdicts on single trials, and what every verdict is made with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from bench.records import ClaimRow, Curve, Score
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


def difference(a: Trial, b: Trial) -> tuple[float, float, float]:
    """FD of a less that of b, with its 95 % interval from those of both, taken as independent and normal."""
    mean = value(a, "fvd-world") - value(b, "fvd-world")
    half = NORMAL * math.hypot(standard_error(a), standard_error(b))
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
    start, end, made = (rng.normal(value(t, "fvd-world"), standard_error(t), DRAWS) for t in trials)
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


def standard_error(trial: Trial) -> float:
    """Standard error of the trial's FD. Raises InputError where it has no interval: that is not certainty."""
    score = trial.scores["fvd-world"]
    if score.low is None or score.high is None:
        raise InputError(f"fvd-world of {trial.knobs.get('model')} has no interval: ask more prompts")
    return (score.high - score.low) / (2 * NORMAL)
