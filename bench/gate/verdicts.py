"""Numbers of base and head -> findings. Pure: nothing is measured here."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bench.gate.config import COUNTERS, LATENCY, OUTPUT, QUALITY, Gates, Waiver
from bench.gate.journal import Counted, Scored
from bench.gate_policy import Decision
from evals import statistics

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID", "NOTICE", "WAIVED"]
EXIT_CODES: dict[Verdict, int] = {"PASS": 0, "FAIL": 1, "INVALID": 3, "INCONCLUSIVE": 4}
"""2 is for input that is wrong, as in all our commands."""
REQUIRED = ("parameter_bytes", "flops", "peak_tensor_bytes", "aten_calls")
TOLERANCES = {"peak_tensor_bytes": 0.01, "resident_bytes": 0.25, "cuda_bytes": 0.10}
"""Growth that is none, unless gates.yaml says otherwise; of every other counter, 0."""


@dataclass(frozen=True)
class Finding:
    """One line of a gate's table. `base`, `head` and `change` are text for it, `detail` the reason."""

    cell: str
    check: str
    verdict: Verdict
    base: str = ""
    head: str = ""
    change: str = ""
    detail: str = ""


def overall(findings: Sequence[Finding]) -> Verdict:
    """The gravest verdict: FAIL before INVALID before INCONCLUSIVE. No finding at all is INVALID."""
    found = {finding.verdict for finding in findings}
    order: tuple[Verdict, ...] = ("FAIL", "INVALID", "INCONCLUSIVE")
    return next((verdict for verdict in order if verdict in found), "PASS" if found else "INVALID")


def latency(cell: str, decision: Decision, base: float, head: float, stored: bool) -> Finding:
    """`base` and `head` are median seconds. A stored base was not measured in turn: it can accuse nobody, and clear
    nobody either, because a slow hour then hides slow code now.
    """
    verdict, why = decision.verdict, decision.reason.rpartition("): ")[2]
    detail = f"{decision.restarts} restarts: {why}"
    if stored:
        detail += "; base is stored, not measured in turn"
        if verdict in ("PASS", "FAIL"):
            verdict = "INCONCLUSIVE"
            detail += ": run without --base-records to tell code from machine"
    change = ""
    if math.isfinite(decision.ratio):
        change = f"× {decision.ratio:.3f} [{decision.low:.3f}, {decision.high:.3f}]"
    return Finding(cell, LATENCY, verdict, f"{base * 1e3:.4g} ms", f"{head * 1e3:.4g} ms", change, detail)


def counters(counted: Counted, gates: Gates) -> list[Finding]:
    """One finding a counter that either side has, and one for the output's hash."""
    base, head = counted.base.counters, counted.head.counters
    names = [name for name in COUNTERS if name in base or name in head or name in REQUIRED]
    limits = TOLERANCES | gates.tolerances
    findings = [
        counter(counted.cell, name, base.get(name), head.get(name), limits.get(name, 0.0)) for name in names
    ]
    if counted.base.output == counted.head.output:
        return [*findings, Finding(counted.cell, OUTPUT, "PASS", detail="equal bytes")]
    changed: Verdict = "FAIL" if gates.changed_output == "fail" else "NOTICE"
    shown = counted.base.output[:8], counted.head.output[:8]
    return [*findings, Finding(counted.cell, OUTPUT, changed, *shown, detail="the output has changed")]


def counter(cell: str, name: str, base: object, head: object, tolerance: float) -> Finding:
    """A counter that is missing, zero or not finite is INVALID: a baseline of 0 would pass forever."""
    for side, value in (("base", base), ("head", head)):
        if value is None:
            return Finding(cell, name, "INVALID", detail=f"{side} has no such number")
        if isinstance(value, bool) or not isinstance(value, int | float):
            return Finding(cell, name, "INVALID", detail=f"{side} reports {value!r}, which is no number")
        if not (math.isfinite(value) and value > 0):
            return Finding(cell, name, "INVALID", detail=f"{side} reports {value}: it was not measured")
    assert isinstance(base, int | float)
    assert isinstance(head, int | float)
    growth = head / base - 1
    shown = f"{base:,}", f"{head:,}", f"{growth:+.2%}" if growth else ""
    if growth > tolerance:
        return Finding(cell, name, "FAIL", *shown, f"grows by more than {tolerance:.2%}")
    return Finding(cell, name, "PASS", *shown)


def quality(scored: Scored, margins: Mapping[str, float]) -> list[Finding]:
    if scored.same:
        return [Finding(QUALITY, name, "PASS", detail="both trees make equal clips") for name in margins]
    return [
        metric(name, scored.base.get(name), scored.head.get(name), margin) for name, margin in margins.items()
    ]


def metric(name: str, base: Any, head: Any, margin: float) -> Finding:
    """Non-inferiority of paired scores: the 95 % interval of head's mean loss must end below the margin.

    A prompt that has no score on either side (a direction of what rests) has no say; on one side it is INVALID.
    """
    if base is None or head is None:
        return Finding(QUALITY, name, "INVALID", detail="a side has no such score")
    if base["protocol"] != head["protocol"]:
        return Finding(
            QUALITY, name, "INVALID", detail=f"protocols differ: {base['protocol']} | {head['protocol']}"
        )
    prompts = max(len(base["values"]), len(head["values"]))
    pairs = list(itertools.zip_longest(base["values"], head["values"]))
    scored = [pair for pair in pairs if pair != (None, None)]
    valid = [pair for pair in scored if None not in pair]
    if len(valid) < len(scored) or len(valid) < 2:
        detail = f"{len(valid)} of {prompts} prompts have a score on both sides, and {len(scored) - len(valid)} on one "
        detail += "side alone: two at least must have both, and none one alone"
        return Finding(QUALITY, name, "INVALID", detail=detail)
    a, b = np.asarray(valid, dtype=np.float64).T
    target = base["target"]
    losses = {"higher": (a, b), "lower": (b, a)}.get(base["better"])
    if losses is None:
        losses = abs(b - target), abs(a - target)
    binary = all(np.isin(side, (0, 1)).all() for side in losses)
    estimate = statistics.paired_proportions if binary else statistics.paired_difference
    loss, low, high, n = estimate(*losses)
    change = f"loses {loss:+.3g} [{low:+.3g}, {high:+.3g}]"
    shown = f"{a.mean():.4g}", f"{b.mean():.4g}", change
    if high <= margin:
        return Finding(QUALITY, name, "PASS", *shown, f"no worse by {margin:g}, {n} prompts")
    if low > 0 and loss > margin:
        return Finding(QUALITY, name, "FAIL", *shown, f"worse by more than {margin:g}, {n} prompts")
    detail = f"a loss of {margin:g} is neither shown nor excluded by {n} prompts: give more"
    return Finding(QUALITY, name, "INCONCLUSIVE", *shown, detail)


def waive(findings: Sequence[Finding], waivers: Sequence[Waiver]) -> list[Finding]:
    """A waived FAIL or INCONCLUSIVE becomes WAIVED. INVALID stays: a waiver forgives a number, not its absence."""
    reasons = {(waiver.cell, waiver.check): waiver for waiver in waivers}
    result = []
    for finding in findings:
        waiver = reasons.get((finding.cell, finding.check))
        if waiver is not None and finding.verdict in ("FAIL", "INCONCLUSIVE"):
            detail = f"waived until {waiver.expires}: {waiver.reason}"
            finding = dataclasses.replace(finding, verdict="WAIVED", detail=detail)
        result.append(finding)
    return result
