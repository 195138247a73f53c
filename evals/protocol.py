"""A score: a value, its 95 % interval, and the protocol that says exactly how it was measured.

Two numbers called "FVD" may differ in frame sampling, resize rule, covariance rule and sample size, and so be
incomparable. Here every `Score` carries all of that as one string, and scores whose strings differ refuse to be
compared. This module imports nothing heavy: plans, reports and command lines use it freely.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from magic141.errors import InputError

Better = Literal["higher", "lower", "target", "descriptive"]


class ProtocolMismatch(InputError):
    """Two scores were measured by different protocols, so that their difference means nothing."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One aggregate score.

    Attributes:
        value: the estimate, always finite: what the data cannot support is no score (see `LabScores.omitted`).
        low, high: its 95 % interval; None where none can be given.
        n: number of clips (or images) that the value rests on.
        protocol: how it was measured; see `protocol_string`.
        better: "higher", "lower", "target" (nearer to `target` is better), or "descriptive": neither is, in itself.
        target: the best value where `better` is "target", e.g. 1 for a ratio to truth.
        floor: what truth itself scores against the reference, already subtracted from `value`; None where the
            metric has no such floor.
        note: a warning that must be shown beside the value; empty where there is none.
        unit: "fraction", "dB", "px/frame", …; empty for a pure number.

    Raises:
        InputError: the value is not finite, or `better` and `target` disagree.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    protocol: str
    better: Better
    target: float | None = None
    floor: float | None = None
    note: str = ""
    unit: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise InputError(
                f"a score must be finite, got {self.value} for {self.protocol!r}; leave the score out"
            )
        if (self.better == "target") != (self.target is not None):
            raise InputError(
                f"better={self.better!r} and target={self.target} disagree; give both or neither"
            )


def protocol_string(metric: str, **facts: object) -> str:
    """`metric; key=value; …` with sorted keys: equal facts give equal strings, whatever their order.

    >>> protocol_string("flickering", frames="0-32", input="arrays")
    'flickering; frames=0-32; input=arrays'
    """
    for key, value in facts.items():
        if any(mark in str(value) for mark in ";\n"):
            raise InputError(f"protocol fact {key}={value!r} contains ';' or a line break; remove it")
    return "; ".join([metric, *(f"{key}={facts[key]}" for key in sorted(facts))])


def require_same_protocol(a: Score, b: Score) -> None:
    """Raise `ProtocolMismatch`, naming the facts that differ, unless both scores share one protocol."""
    if a.protocol == b.protocol:
        return
    facts_a, facts_b = (set(score.protocol.split("; ")) for score in (a, b))
    raise ProtocolMismatch(
        "scores measured by different protocols cannot be compared: "
        f"{sorted(facts_a - facts_b)} against {sorted(facts_b - facts_a)}; score both again by one protocol"
    )


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
