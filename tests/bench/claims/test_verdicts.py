"""Verdicts on numbers that are known."""

import dataclasses
import math

import numpy as np
import pytest

from bench.claims import runs
from bench.claims.curves import advantage, effect_of_the_dial
from bench.claims.verdicts import (
    accuracy_kept,
    confirmed,
    diversity_kept,
    gap_closed,
    motion_kept,
    steps_beaten,
)
from bench.trials import Sample
from magic141.errors import InputError
from tests.bench.claims.answers import ANCHORS, lines, trial


def drawn(value, half, seed=0):
    """What a trial might have answered whose 95 % interval reaches `half` to either side."""
    return np.random.default_rng(seed).normal(value, half / 1.96, 200_000)


def test_progress_is_one_at_the_start_and_none_at_the_teacher():
    worse, a = lines("worse", [[9.0, 5.0], [9.0, 5.0], [9.0, 5.0]])
    better, b = lines("better", [[5.0, 1.0], [5.0, 1.0], [5.0, 1.2]])
    found = advantage(worse, better, a | b | ANCHORS)
    assert next([point.y for point in curve.points] for curve in found.curves) == [1.0, 0.5]
    assert found.value == pytest.approx(0.5, abs=0.01)
    assert found.verdict == "reproduced"
    assert found.low < found.value < found.high
    assert advantage(better, worse, a | b | ANCHORS).verdict == "not reproduced"


def test_an_advantage_is_known_no_better_than_the_gap_that_it_is_measured_in():
    worse, a = lines("worse", [[9.0, 5.0], [9.0, 5.0], [9.0, 5.1]])
    better, b = lines("better", [[5.0, 1.0], [5.0, 1.0], [5.0, 1.2]])
    vague = {"few": trial(9.0, half=1.6), "many": trial(1.0, half=1.6)}
    known, unknown = (advantage(worse, better, a | b | anchors) for anchors in (ANCHORS, vague))
    assert known.value == unknown.value
    # By drawing the anchors, which both lines share.
    few, many = drawn(9.0, 1.6), drawn(1.0, 1.6, 1)
    low, high = np.quantile((7.0167 - 3.0333) / (few - many), [0.025, 0.975])
    assert (unknown.low, unknown.high) == pytest.approx((low, high), abs=0.01)
    # Where each has its own, the errors add up.
    own = dataclasses.replace(better, anchors=("few'", "many'"))
    apart = advantage(worse, own, a | b | vague | {f"{name}'": one for name, one in vague.items()})
    high_line, low_line = (
        (mean - drawn(1.0, 1.6, 2 * k + 1)) / (drawn(9.0, 1.6, 2 * k) - drawn(1.0, 1.6, 2 * k + 1))
        for k, mean in enumerate((7.0167, 3.0333))
    )
    bounds = np.quantile(high_line - low_line, [0.025, 0.975])
    assert (apart.low, apart.high) == pytest.approx(tuple(bounds), abs=0.02)


def test_of_several_ends_of_the_scale_the_best_is_taken():
    between = ("few", "weaker", "many")
    worse, a = lines("worse", [[9.0, 5.0], [9.0, 5.0]], between)
    better, b = lines("better", [[5.0, 1.0], [5.0, 1.0]], between)
    found = advantage(worse, better, a | b | ANCHORS | {"weaker": trial(3.0)})
    assert [[point.y for point in curve.points] for curve in found.curves] == [[1.0, 0.5], [0.5, 0.0]]
    assert advantage(worse, better, a | b | ANCHORS).verdict == "not run yet"


def test_seeds_that_disagree_reproduce_nothing():
    worse, a = lines("worse", [[9.0], [2.0], [9.0]])
    better, b = lines("better", [[2.0], [9.0], [2.0]])
    found = advantage(worse, better, a | b | ANCHORS)
    assert found.value > 0
    assert found.verdict == "not reproduced"


def test_one_seed_has_no_interval_and_so_reproduces_nothing():
    worse, a = lines("worse", [[9.0]])
    better, b = lines("better", [[1.0]])
    found = advantage(worse, better, a | b | ANCHORS)
    assert (found.value, found.low, found.verdict) == (1.0, None, "not reproduced")


def test_without_headroom_nothing_is_testable_and_the_reason_is_given():
    worse, a = lines("worse", [[3.0]])
    better, b = lines("better", [[1.0]])
    close = {"few": trial(1.2, half=1.0), "many": trial(1.0, half=1.0)}
    found = advantage(worse, better, a | b | close)
    assert found.verdict == "not testable here"
    assert "no headroom" in found.note
    assert found.labels[1] == "ln(1 + FD)"  # a figure without the gap, which is no measure here
    assert [curve.points[0].y for curve in found.curves] == pytest.approx([math.log(4), math.log(2)])
    assert gap_closed("few", "many", "few", close).verdict == "not testable here"


@pytest.mark.parametrize("gap", [(9.0, 1.0), (3.0, 1.0)])
def test_points_of_a_figure_are_known_no_better_than_the_gap_either(gap):
    """Seeds agree to the last digit: what is left of an interval is what the anchors bring."""
    few, many = gap
    worse, a = lines("worse", [[few, many], [few, many]])
    better, b = lines("better", [[few, many], [few, many]])
    found = advantage(worse, better, a | b | {"few": trial(few, half=0.5), "many": trial(many, half=0.5)})
    starts, stops = drawn(few, 0.5), drawn(many, 0.5, 1)
    for curve in found.curves:
        for point, found_there in zip(curve.points, gap, strict=True):
            bounds = np.quantile((found_there - stops) / (starts - stops), [0.025, 0.975])
            assert (point.low, point.high) == pytest.approx(tuple(bounds), abs=0.02)


def test_curves_lie_over_flops_where_those_are_what_is_equal():
    worse, a = lines("worse", [[9.0, 5.0], [9.0, 5.0]])
    better, b = lines("better", [[5.0, 1.0], [5.0, 1.0]])
    worse = dataclasses.replace(worse, gflop=10.0)
    equal = advantage(worse, dataclasses.replace(better, gflop=20.0), a | b | ANCHORS)
    assert equal.labels[0] == "training samples (of so many GFLOP: worse 10, better 20)"
    assert [point.x for point in equal.curves[1].points] == [50, 100]
    half = dataclasses.replace(better, gflop=20.0, samples=50)
    found = advantage(worse, half, a | b | ANCHORS)
    assert found.labels[0] == "training TFLOP"
    assert [[point.x for point in curve.points] for curve in found.curves] == [[0.5, 1.0], [0.5, 1.0]]


def test_convergence_needs_no_anchors():
    worse, a = lines("worse", [[math.e**2 - 1], [math.e**2 - 1]], None)
    better, b = lines("better", [[math.e - 1], [math.e - 1.0001]], None)
    assert advantage(worse, better, a | b).value == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("student", "share", "verdict"),
    [(1.0, 1.0, "reproduced"), (2.6, 0.8, "reproduced"), (3.0, 0.75, "not reproduced")],
)
def test_the_closed_share_of_the_gap(student, share, verdict):
    found = gap_closed("few", "many", "student", {**ANCHORS, "student": trial(student)})
    assert found.value == pytest.approx(share)
    assert found.verdict == verdict
    assert found.low < found.value < found.high


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.81, "reproduced"), (0.79, "not reproduced"), (1.3, "reproduced")]
)
def test_the_closed_share_decides_as_a_point_estimate(share, verdict):
    answers = ANCHORS | {"student": trial(9.0 - 8.0 * share, half=2.0)}
    found = gap_closed("few", "many", "student", answers)
    assert (found.verdict, found.low < 0.8) == (verdict, share < 1.2)


@pytest.mark.parametrize(
    ("lost", "spread", "verdict"),
    [
        (0.015, 0.001, "reproduced"),
        (0.025, 0.001, "not reproduced"),
        (0.015, 0.1, "not reproduced"),  # lost too little by its mean, and too much by its interval
        (-0.05, 0.001, "reproduced"),
    ],
)
def test_the_whole_interval_of_what_accuracy_loses_must_be_small(lost, spread, verdict):
    before = np.full(100, 0.9)
    after = before - lost + spread * np.tile([-1, 1], 50)
    answers = {name: trial(2.0, accuracy=tuple(x)) for name, x in (("many", before), ("student", after))}
    found = accuracy_kept("many", "student", answers)
    assert found.value == pytest.approx(-lost)
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("motion", "verdict"),
    [(0.89, "not reproduced"), (0.91, "reproduced"), (1.09, "reproduced"), (1.11, "not reproduced")],
)
def test_motion_is_neither_lost_nor_added(motion, verdict):
    assert motion_kept("student", {"student": trial(2.0, motion=motion)}).verdict == verdict


@pytest.mark.parametrize(
    ("many", "half", "verdict"),
    [(2.3, 0.1, "reproduced"), (2.1, 0.1, "not reproduced"), (1.7, 0.1, "not reproduced")],
)
def test_steps_are_beaten_by_a_whole_interval(many, half, verdict):
    answers = {"many": trial(many, half), "student": trial(2.0, half)}
    found = steps_beaten("many", "student", answers)
    assert found.value == pytest.approx(many - 2.0)
    assert found.verdict == verdict


def test_what_comes_out_otherwise_on_other_prompts_is_not_confirmed():
    answers = {
        "few": trial(9.0), "many": trial(1.0), "student": trial(1.2),
        "few'": trial(8.8), "many'": trial(1.1), "student'": trial(1.2),
    }  # fmt: skip
    first, again = ("few", "many", "student"), ("few'", "many'", "student'")
    found = confirmed(first, again, answers)
    assert found.verdict == "reproduced"  # d5 fails on both
    assert found.value == pytest.approx(7.6 / 7.7)
    assert found.note.startswith("d1 0.987 [")
    for other in (trial(0.5), trial(1.2, motion=0.8), trial(1.2, accuracy=(0.8,) * 50), trial(4.0)):
        assert confirmed(first, again, answers | {"student'": other}).verdict == "not reproduced"
    assert (
        "d3 0.8 [0.7, 0.9], not reproduced"
        in confirmed(first, again, answers | {"student'": trial(1.2, motion=0.8)}).note
    )
    assert confirmed(first, again, ANCHORS).verdict == "not run yet"


def test_a_distance_without_an_interval_is_no_certainty():
    vague = trial(1.0)
    vague.scores["fvd-world"] = vague.scores["fvd-world"].model_copy(update={"low": None, "high": None})
    with pytest.raises(InputError, match="fvd-world .* has no interval"):
        steps_beaten("many", "student", {"many": trial(2.0), "student": vague})


def dial_pairs(gaps, events_anchors=None):
    """At every setting of the dial, lines whose remaining gaps differ by `gaps` of a whole one."""
    pairs, answers = [], {}
    for dial, gap in zip(runs.DIALS, gaps, strict=True):
        pair = []
        for side, top in (("worse", 1.0 + 8 * gap), ("better", 1.0)):
            names = tuple(f"{end} {side} {dial}" for end in ("few", "many"))
            answers |= dict(zip(names, (trial(9.0), trial(1.0)), strict=True))
            if dial == (0.0, False) and events_anchors:
                answers |= dict(zip(names, events_anchors, strict=True))
            one, found = lines(f"{side} {dial} ", [[top], [top + 0.01], [top - 0.01]], names)
            pair.append(one)
            answers |= found
        pairs.append(tuple(pair))
    return pairs, answers


def test_the_dial_compares_nothing_stated_with_everything():
    pairs, answers = dial_pairs([0.5, 0.3, 0.2, 0.9])
    found = effect_of_the_dial(pairs, runs.DIALS, answers)
    assert found.value == pytest.approx(0.3)
    assert found.verdict == "reproduced"
    assert [len(curve.points) for curve in found.curves] == [3, 1]
    for point in (point for curve in found.curves for point in curve.points):
        assert point.high - point.low > 0.02  # seeds differ by a 400th, both anchors by 0.1 either side
    flat, answers = dial_pairs([0.2, 0.3, 0.5, 0.9])
    assert effect_of_the_dial(flat, runs.DIALS, answers).verdict == "not reproduced"


def test_a_setting_that_decides_nothing_needs_no_headroom():
    none = (trial(1.2, half=1.0), trial(1.0, half=1.0))
    pairs, answers = dial_pairs([0.5, 0.3, 0.2, 0.9], events_anchors=none)
    found = effect_of_the_dial(pairs, runs.DIALS, answers)
    assert found.verdict == "reproduced"
    assert found.note.startswith("at 0% stated and without events, which decides nothing, worse")
    assert "no headroom" in found.note
    first = pairs[0][0].anchors
    starved = answers | dict(zip(first, none, strict=True))
    assert effect_of_the_dial(pairs, runs.DIALS, starved).verdict == "not testable here"


def spread_trial(spread, prompts=40, seeds=8, rng=0):
    rng = np.random.default_rng(rng)
    ends = 32 + spread * rng.standard_normal((prompts, seeds, 2))
    sample = Sample(split="test", prompts=prompts, seeds=seeds)
    return trial(1.0, sample=sample, ends=tuple(tuple(map(tuple, row)) for row in ends.tolist()))


def test_diversity_is_a_ratio_of_variances():
    wide, narrow = spread_trial(4.0), spread_trial(2.0)
    kept = diversity_kept("s", "t", {"s": wide, "t": wide})
    assert (kept.value, kept.verdict) == (pytest.approx(1.0), "reproduced")
    lost = diversity_kept("s", "t", {"s": narrow, "t": wide})
    assert (lost.value, lost.verdict) == (pytest.approx(0.25), "not reproduced")


@pytest.mark.parametrize(
    ("spread", "verdict"), [(4.0 * 0.85**0.5, "not reproduced"), (4.0 * 0.98**0.5, "reproduced")]
)
def test_the_whole_interval_of_variety_must_be_large(spread, verdict):
    """On a student whose ends are drawn anew, so that the ratio has an interval."""
    student, teacher = spread_trial(spread, prompts=200, rng=1), spread_trial(4.0, prompts=200)
    found = diversity_kept("s", "t", {"s": student, "t": teacher})
    assert found.value > 0.8
    assert found.low < found.value
    assert found.verdict == verdict
