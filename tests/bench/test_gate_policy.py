import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.gate_policy import Policy, Restart, decide, depths, looks
from magic141.errors import InputError

POLICY = Policy()
EVEN = Policy(alpha=0.01, beta=0.01)
"""Both errors alike, so that swapping base and head mirrors the interval."""


def gate(ratios: Sequence[float], seconds: float = 1.0, pairs: int = 8) -> list[Restart]:
    """Restarts without noise inside, of these ratios."""
    return [Restart((seconds,) * pairs, (seconds * ratio,) * pairs) for ratio in ratios]


def noisy(seed: int, slowdown: float, count: int = 24, spread: float = 0.02) -> list[Restart]:
    rng = np.random.default_rng(seed)
    base, head = rng.normal(1, 0.03, (2, count, 8))
    head *= rng.normal(1 + slowdown, spread, (count, 1))
    return [Restart(tuple(b), tuple(h)) for b, h in zip(base.tolist(), head.tolist(), strict=True)]


seeds = st.integers(0, 10_000)
slowdowns = st.sampled_from([-0.05, 0.0, 0.02, 0.03, 0.04, 0.06, 0.1])
counts = st.integers(1, 26)


@given(seeds, slowdowns, st.sampled_from([12, 18, 24]))
def test_swapping_sides_inverts(seed: int, slowdown: float, count: int) -> None:
    restarts = noisy(seed, slowdown, count)
    forth = decide(restarts, EVEN)
    back = decide([Restart(one.head, one.base) for one in restarts], EVEN)
    if forth.look == back.look:
        assert back.ratio == pytest.approx(1 / forth.ratio)
        assert back.low == pytest.approx(1 / forth.high)
        assert back.high == pytest.approx(1 / forth.low)
    assert {forth.verdict, back.verdict} != {"FAIL"}


@given(seeds, slowdowns, counts, st.sampled_from([1e-6, 0.01, 1000.0]))
def test_the_unit_of_time_is_free(seed: int, slowdown: float, count: int, unit: float) -> None:
    restarts = noisy(seed, slowdown, count)
    scaled = [
        Restart(tuple(unit * x for x in one.base), tuple(unit * x for x in one.head)) for one in restarts
    ]
    first = decide(restarts, Policy(absolute_seconds=0.04))
    second = decide(scaled, Policy(absolute_seconds=0.04 * unit))
    assert (first.verdict, first.look, first.final) == (second.verdict, second.look, second.final)
    assert second.ratio == pytest.approx(first.ratio)


@given(seeds, slowdowns, counts)
def test_a_verdict_is_what_its_interval_says(seed: int, slowdown: float, count: int) -> None:
    found = decide(noisy(seed, slowdown, count), POLICY)
    assert found.low <= found.ratio <= found.high
    assert found.look <= len(POLICY.restarts) <= 3
    assert (found.verdict == "FAIL") == (found.look > 0 and found.low > 1 and found.ratio >= 1.03)
    assert (found.verdict == "PASS") == (found.high < 1.03)
    assert found.final == (found.verdict != "INCONCLUSIVE" or count >= 24)


@given(seeds, slowdowns, st.sampled_from([12, 18, 24]), st.floats(1.0, 1.2))
def test_more_slowdown_never_helps(seed: int, slowdown: float, count: int, more: float) -> None:
    restarts = noisy(seed, slowdown, count)
    slower = [Restart(one.base, tuple(more * x for x in one.head)) for one in restarts]
    first, second = decide(restarts, POLICY), decide(slower, POLICY)
    if first.verdict == "FAIL":
        assert second.verdict == "FAIL"
    if second.verdict == "PASS":
        assert first.verdict == "PASS"


@given(seeds, slowdowns)
def test_later_restarts_cannot_turn_a_verdict(seed: int, slowdown: float) -> None:
    restarts = noisy(seed, slowdown)
    first = decide(restarts[:12], POLICY)
    if first.final:
        assert decide(restarts, POLICY) == first
    assert decide(restarts[:17], POLICY) == first
    assert decide(restarts, POLICY) == decide([*restarts, *noisy(seed + 1, 0.5)], POLICY)


@given(seeds, slowdowns, st.randoms())
def test_order_within_a_look_is_free(seed: int, slowdown: float, random: Any) -> None:
    restarts = noisy(seed, slowdown, 12)
    shuffled = random.sample(restarts, 12)
    assert decide(shuffled, POLICY).verdict == decide(restarts, POLICY).verdict


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([1.05] * 12, "FAIL"),
        ([1.0] * 12, "PASS"),
        ([0.9] * 12, "PASS"),
        ([1.02] * 12, "PASS"),
        ([1.05] * 11 + [0.99], "FAIL"),
        ([1.05] * 10 + [0.99] * 2, "INCONCLUSIVE"),
        # One restart that agrees with itself to the last digit and with no other.
        ([0.99, 1.0, 1.01] * 3 + [0.99, 1.0, 0.943], "PASS"),
        ([0.99, 1.0, 1.01] * 3 + [0.99, 1.0, 1.943], "PASS"),
        ([1.04] * 6 + [0.98] * 6, "INCONCLUSIVE"),
    ],
)
def test_verdicts(ratios: list[float], verdict: str) -> None:
    assert decide(gate(ratios), POLICY).verdict == verdict


def test_looks_are_due_until_the_last() -> None:
    mixed = gate([1.06, 0.98] * 12)
    for count, look, final in [(3, 0, False), (12, 1, False), (17, 1, False), (18, 2, False), (24, 3, True)]:
        found = decide(mixed[:count], POLICY)
        assert (found.verdict, found.look, found.final) == ("INCONCLUSIVE", look, final)
    assert decide(mixed[:3], POLICY).reason == "3 of 12 restarts before the first look"
    assert "look 3 of 3, 24 restarts" in decide(mixed, POLICY).reason


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0, None, "1.0"])
@pytest.mark.parametrize("side", ["base", "head"])
@pytest.mark.parametrize("ratio", [1.0, 1.5])
def test_one_bad_number_is_invalid(bad: Any, side: str, ratio: float) -> None:
    restarts = gate([ratio] * 30)
    blocks = (*getattr(restarts[29], side)[:-1], bad)
    restarts[29] = Restart(**{"base": restarts[29].base, "head": restarts[29].head} | {side: blocks})
    found = decide(restarts, POLICY)
    assert (found.verdict, found.final) == ("INVALID", True)
    assert f"restart 30 measured {bad!r} seconds for a block of {side}" in found.reason


@pytest.mark.parametrize(
    ("restarts", "said"),
    [
        ([], "no restart was measured"),
        ([Restart((), ())], "0 blocks of base and 0 of head"),
        ([Restart((1.0, 1.0), (1.0,))], "2 blocks of base and 1 of head"),
    ],
)
def test_missing_numbers_are_invalid(restarts: list[Restart], said: str) -> None:
    found = decide(restarts, POLICY)
    assert (found.verdict, found.final) == ("INVALID", True)
    assert said in found.reason


def test_both_thresholds_must_be_crossed() -> None:
    slower = gate([1.05] * 12, seconds=0.001)
    assert decide(slower, POLICY).verdict == "FAIL"
    assert decide(slower, Policy(absolute_seconds=0.0001)).verdict == "PASS"
    assert decide(slower, Policy(absolute_seconds=0.00004)).verdict == "FAIL"
    assert decide(slower, Policy(relative=0.06)).verdict == "PASS"


def test_stolen_blocks_have_no_say() -> None:
    base = (1.0,) * 8
    stolen = [Restart(base, (9.0, 1.0, 1.0, 9.0, 1.0, 1.0, 1.0, 1.0))] * 12
    assert decide(stolen, POLICY).ratio == 1.0


@pytest.mark.parametrize("error", [0.2, 0.05, 0.01])
@pytest.mark.parametrize("restarts", [(6,), (4, 8), (5, 8, 11)])
def test_errors_are_spent_exactly(restarts: tuple[int, ...], error: float) -> None:
    """Every path of signs, counted: wrong at any look in at most `error` of them; one step more is too much."""

    def wrong(found: Sequence[int]) -> float:
        paths = itertools.product((0, 1), repeat=restarts[-1])
        crossed = [
            any(sum(path[:n]) < depth for n, depth in zip(restarts, found, strict=True)) for path in paths
        ]
        return sum(crossed) / len(crossed)

    found = depths(restarts, error)
    assert wrong(found) <= error
    assert wrong([*found[:-1], found[-1] + 1]) > error


def test_a_correction_over_cells_moves_the_lower_bound_alone() -> None:
    one, many = looks(POLICY), looks(POLICY, 20)
    assert [look.high_depth for look in one] == [look.high_depth for look in many]
    assert all(a.low_depth > b.low_depth for a, b in zip(one, many, strict=True))
    restarts = gate([1.05] * 11 + [0.99])
    assert decide(restarts, POLICY).verdict == "FAIL"
    assert decide(restarts, POLICY, cells=20).verdict == "INCONCLUSIVE"
    with pytest.raises(InputError, match="0 cells decides nothing"):
        decide(restarts, POLICY, cells=0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"restarts": (12, 14, 16, 18)}, "4 looks: name one to 3"),
        ({"restarts": ()}, "0 looks: name one to 3"),
        ({"restarts": (11, 18)}, "starts at 11: fewer than 12"),
        ({"restarts": (12, 12)}, "must grow"),
        ({"relative": 0.0}, "greater than 0"),
        ({"relative": math.nan}, "relative"),
        ({"absolute_seconds": math.inf}, "finite"),
        ({"absolute_seconds": -1.0}, "greater than or equal to 0"),
        ({"alpha": 0.5}, "less than 0.5"),
        ({"looks": 3}, "Extra inputs"),
    ],
)
def test_a_policy_is_checked(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Policy(**fields)
