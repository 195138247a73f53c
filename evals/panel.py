"""Flags clips that buy their scores: what is still, blurred, dark or empty flickers least and warps best.

Every threshold was set once, between the truth of the lab world and published clips on one side and known cheats on
the other, and leaves room on both. A flag is a reason to look, not a verdict: a scene at rest is rightly static, and
one at night may be rightly dark. What no flag sees: a clip played at another speed, cross-fades, a jump within one
shot, and a blur under a crisp logo.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from magic141.errors import InputError


@dataclass(frozen=True)
class Rule:
    """A flag goes up where `measure` of `evals.appearance.MEASURES` lies `side` of `threshold`, for `reason`."""

    flag: str
    measure: str
    side: Literal["below", "above"]
    threshold: float
    reason: str


RULES = (
    Rule(
        "static",
        "departure",
        "below",
        0.02,
        "no frame ever differs from the first by more than coding noise. A still is at 0, coded by H.264 at quality "
        "28 below 0.014 (but for loud synthetic colours), the slowest moving scene of the lab at 0.06.",
    ),
    Rule(
        "static",
        "frozen-share",
        "above",
        0.85,
        "most frames repeat the one before: a still with a change in it, or one coded so coarsely (H.264 at 35: "
        "0.87) that key frames jump. The lab has up to 0.78, where an object comes late into a scene at rest; one "
        "that comes in the last few frames is flagged.",
    ),
    Rule(
        "blurred",
        "softness",
        "above",
        0.2,
        "even the strongest edges lose little to another blur. The lab stays below 0.12, published clips "
        "below 0.17; a Gaussian blur of 1 px gives the former at least 0.24, of 1/200 of the short side the latter "
        "0.45.",
    ),
    Rule(
        "dark",
        "highlight",
        "below",
        128,
        "nothing reaches the upper half of the range, which is where halved brightness ends whatever the clip. "
        "The darkest published clip reaches 148.",
    ),
    Rule(
        "collapsed",
        "contrast",
        "below",
        75,
        "no colour channel spans a third of the range, so there is little to see. The collapsed control spans 60, "
        "the palest scene of the lab 96, the darkest published clip 143.",
    ),
    Rule(
        "collapsed",
        "high-frequency-share",
        "above",
        0.45,
        "the picture is mostly noise: white noise has 0.8 of its variance in its finest scale, the busiest texture "
        "of the lab 0.2, published clips 0.05.",
    ),
    Rule(
        "cut", "cuts", "above", 0, "a generator was asked for one shot; see evals.dynamics for what is a cut."
    ),
)

FLAGS = tuple(dict.fromkeys(rule.flag for rule in RULES))


@dataclass(frozen=True)
class Flag:
    """A rule that a clip broke, with the value that broke it."""

    rule: Rule
    value: float

    @property
    def name(self) -> str:
        """One of `FLAGS`."""
        return self.rule.flag

    def __str__(self) -> str:
        sign = "<" if self.rule.side == "below" else ">"
        return f"{self.name}: {self.rule.measure} {self.value:.3g} {sign} {self.rule.threshold:g}"


def flags(numbers: Mapping[str, float]) -> list[Flag]:
    """The flags of one clip, in the order of `RULES`; a flag comes twice where two of its rules are broken.

    Args:
        numbers: what `evals.appearance.measure` gave for the clip.

    Raises:
        InputError: a measure that a rule needs is missing.
    """
    missing = {rule.measure for rule in RULES} - numbers.keys()
    if missing:
        raise InputError(
            f"flags need {', '.join(sorted(missing))}; give all that evals.appearance.measure gives"
        )
    return [Flag(rule, numbers[rule.measure]) for rule in RULES if _broken(rule, numbers[rule.measure])]


def _broken(rule: Rule, value: float) -> bool:
    return value < rule.threshold if rule.side == "below" else value > rule.threshold
