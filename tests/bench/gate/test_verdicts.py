import datetime
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.gate import verdicts
from bench.gate.config import Waiver
from bench.gate.journal import Scored
from bench.gate.verdicts import Finding
from bench.gate.worker import _by_prompt
from bench.gate_policy import Decision
from bench.systems import Request


def column(
    values: list[float | None], better: str = "higher", protocol: str = "p", target: float | None = None
) -> dict[str, Any]:
    return {"values": values, "better": better, "protocol": protocol, "target": target}


@given(st.integers(1, 10**12), st.integers(1, 10**12), st.floats(0, 1))
def test_a_counter_fails_exactly_above_its_tolerance(base: int, head: int, tolerance: float) -> None:
    finding = verdicts.counter("c", "flops", base, head, tolerance)
    assert finding.verdict == ("FAIL" if head / base - 1 > tolerance else "PASS")


@pytest.mark.parametrize("bad", [0, -1, None, math.nan, math.inf, "12", True])
def test_what_is_no_measurement_never_passes(bad: object) -> None:
    for pair in ((bad, 5), (5, bad), (bad, bad)):
        assert verdicts.counter("c", "flops", *pair, 9.0).verdict == "INVALID"


@pytest.mark.parametrize(
    ("better", "target", "head", "expected"),
    [
        ("higher", None, 0.3, "FAIL"),
        ("higher", None, 0.9, "PASS"),
        ("lower", None, 0.9, "FAIL"),
        ("lower", None, 0.3, "PASS"),
        ("target", 0.6, 0.65, "PASS"),
        ("target", 0.6, 0.9, "FAIL"),
        ("target", 0.6, 0.2, "FAIL"),
    ],
)
def test_a_loss_counts_in_its_own_direction(
    better: str, target: float | None, head: float, expected: str
) -> None:
    noise = np.random.default_rng(0).normal(size=20) * 0.01
    base = column([0.6 + value for value in noise], better, target=target)
    other = column([head + value for value in noise[::-1]], better, target=target)
    assert verdicts.metric("m", base, other, 0.1).verdict == expected


def test_too_few_prompts_are_inconclusive_and_missing_ones_invalid() -> None:
    assert (
        verdicts.metric("m", column([0.0, 1.0, 0.0]), column([1.0, 0.0, 0.0]), 0.1).verdict == "INCONCLUSIVE"
    )
    assert verdicts.metric("m", column([0.5, None]), column([0.5, 0.5]), 0.1).verdict == "INVALID"
    assert verdicts.metric("m", column([0.5]), column([0.5]), 0.1).verdict == "INVALID"
    assert verdicts.metric("m", column([0.5, 0.5]), column([0.5, 0.5, 0.5]), 0.1).verdict == "INVALID"
    assert (
        verdicts.metric("m", column([0.5, 0.5]), column([0.5, 0.5], protocol="q"), 0.1).verdict == "INVALID"
    )
    assert verdicts.metric("m", None, column([0.5, 0.5]), 0.1).verdict == "INVALID"
    assert [one.verdict for one in verdicts.quality(Scored(same=True), {"a": 0.1})] == ["PASS"]


def test_a_stored_base_accuses_nobody() -> None:
    decision = Decision("FAIL", 1.2, 1.1, 1.3, 1, 12, True, "slow")
    assert verdicts.latency("c", decision, 1.0, 1.2, stored=False).verdict == "FAIL"
    assert verdicts.latency("c", decision, 1.0, 1.2, stored=True).verdict == "INCONCLUSIVE"


def test_the_gravest_verdict_is_the_gates() -> None:
    def of(*found: verdicts.Verdict) -> verdicts.Verdict:
        return verdicts.overall([Finding("c", "x", verdict) for verdict in found])

    assert of("PASS", "NOTICE", "WAIVED") == "PASS"
    assert of("PASS", "INCONCLUSIVE") == "INCONCLUSIVE"
    assert of("INCONCLUSIVE", "INVALID") == "INVALID"
    assert of("INVALID", "FAIL", "PASS") == "FAIL"
    assert of() == "INVALID"


def test_a_waiver_forgives_what_was_measured_and_nothing_else() -> None:
    waiver = Waiver(
        cell="c", check="flops", reason="a wider block is worth it", expires=datetime.date(9999, 1, 1)
    )
    for before, after in (
        ("FAIL", "WAIVED"),
        ("INCONCLUSIVE", "WAIVED"),
        ("INVALID", "INVALID"),
        ("PASS", "PASS"),
    ):
        (found,) = verdicts.waive([Finding("c", "flops", before)], [waiver])
        assert found.verdict == after
    (other,) = verdicts.waive([Finding("c", "aten_calls", "FAIL")], [waiver])
    assert other.verdict == "FAIL"


def test_the_seeds_of_a_prompt_are_one_piece_of_evidence() -> None:
    asked = [Request(index, "p", seed, None) for seed in (0, 1) for index in (3, 4, 5)]
    assert _by_prompt(asked, [1.0, 2.0, 3.0, 5.0, None, 3.0]) == [3.0, None, 3.0]


def test_a_stored_base_clears_nobody() -> None:
    """Recorded in an hour when the machine took twice as long, it would hide code that takes half as long again."""
    decision = Decision("PASS", 0.75, 0.7, 0.8, 1, 12, True, "fast")
    found = verdicts.latency("c", decision, 2.0, 1.5, stored=True)
    assert found.verdict == "INCONCLUSIVE"
    assert "without --base-records" in found.detail


def test_a_prompt_without_a_score_on_either_side_has_no_say() -> None:
    base, head = column([None, 0.5, 0.5, 0.6, 0.6]), column([None, 0.5, 0.5, 0.6, 0.6])
    assert verdicts.metric("m", base, head, 0.1).verdict == "PASS"
    assert verdicts.metric("m", column([None, None]), column([None, None]), 0.1).verdict == "INVALID"


def test_few_zeros_and_ones_that_tie_exclude_no_loss() -> None:
    """Eight hits of eight on both sides: one prompt in ten could be lost and not be among them."""
    assert verdicts.metric("m", column([1.0] * 8), column([1.0] * 8), 0.1).verdict == "INCONCLUSIVE"
    assert verdicts.metric("m", column([1.0] * 40), column([1.0] * 40), 0.1).verdict == "PASS"
    assert verdicts.metric("m", column([1.0] * 40), column([0.0] * 40), 0.1).verdict == "FAIL"
