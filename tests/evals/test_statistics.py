from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals import statistics
from magic141.errors import InputError

TRIALS = 500


def covered(estimates, truth):
    return np.mean([estimate.low <= truth <= estimate.high for estimate in estimates])


def test_interval_of_a_mean_covers(rng):
    draws = rng.gamma(4.0, 1.0, size=(TRIALS, 48))
    share = covered([statistics.mean(row, resamples=600, seed=i) for i, row in enumerate(draws)], 4.0)
    assert 0.92 <= share <= 0.98


@pytest.mark.parametrize("n", [2, 3, 5, 7])
def test_interval_of_a_mean_of_few_covers(rng, n):
    assert 0.92 <= covered([statistics.mean(row) for row in rng.normal(size=(TRIALS, n))], 0.0) <= 0.98


def test_interval_of_a_paired_difference_covers_and_is_narrower_than_apart(rng):
    easy = rng.normal(0, 5, size=(TRIALS, 32))
    a, b = easy + rng.normal(0.5, 1, easy.shape), easy + rng.normal(0, 1, easy.shape)
    pairs = [statistics.paired_difference(x, y, seed=i) for i, (x, y) in enumerate(zip(a, b, strict=True))]
    assert 0.92 <= covered(pairs, 0.5) <= 0.98
    alone = statistics.mean(a[0])
    assert pairs[0].high - pairs[0].low < 0.5 * (alone.high - alone.low)


@pytest.mark.parametrize("n", [5, 6, 10, 30, 101])
@pytest.mark.parametrize("shape", ["normal", "exponential", "cauchy"])
def test_interval_of_a_median_covers(rng, n, shape):
    draw = {"normal": rng.normal, "exponential": rng.exponential, "cauchy": rng.standard_cauchy}[shape]
    truth = {"normal": 0.0, "exponential": math.log(2), "cauchy": 0.0}[shape]
    share = covered([statistics.median(draw(size=n)) for _ in range(TRIALS)], truth)
    assert 0.92 <= share <= 0.98


@pytest.mark.parametrize("n", [1, 2, 4])
def test_few_values_have_a_median_and_no_interval(n):
    found = statistics.median(np.arange(n))
    assert found.value == (n - 1) / 2
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@given(st.lists(st.floats(-1e3, 1e3), min_size=5, max_size=60))
def test_the_interval_of_a_median_lies_among_the_values(values):
    found = statistics.median(values)
    assert min(values) <= found.low <= found.value <= found.high <= max(values)


@pytest.mark.parametrize("values", [[], [1.0, math.nan]])
def test_a_median_refuses_nothing_and_nan(values):
    with pytest.raises(InputError, match="finite"):
        statistics.median(values)


def test_interval_of_a_ratio_covers(rng):
    bottom = rng.gamma(3.0, 1.0, size=(TRIALS, 64))
    top = 0.8 * bottom * rng.gamma(20.0, 1 / 20, size=bottom.shape)
    ratios = [
        statistics.ratio_of_means(x, y, seed=i) for i, (x, y) in enumerate(zip(top, bottom, strict=True))
    ]
    assert 0.92 <= covered(ratios, 0.8) <= 0.98


@pytest.mark.parametrize("n", [2, 3, 4, statistics.BOOTSTRAP_NEEDS - 1])
def test_interval_of_a_ratio_of_few_values_covers(rng, n):
    bottom = rng.gamma(3.0, 1.0, size=(2000, n))
    top = 0.8 * bottom * rng.gamma(20.0, 1 / 20, size=bottom.shape)
    assert 0.9 <= covered(list(map(statistics.ratio_of_means, top, bottom)), 0.8) <= 0.98


def test_from_eight_pairs_on_a_ratio_is_bootstrapped():
    """What was published of sets of eight clips and more stays as it was, bit by bit."""
    top, bottom = np.arange(8.0), np.arange(1.0, 9.0)
    expected = statistics.bootstrap(
        np.stack([top, bottom], axis=-1), lambda x: x[..., 0].sum(axis=-1) / x[..., 1].sum(axis=-1)
    )
    assert statistics.ratio_of_means(top, bottom) == expected


def test_one_pair_has_a_ratio_and_no_interval():
    found = statistics.ratio_of_means([1.0], [2.0])
    assert found.value == 0.5
    assert math.isnan(found.low)


@pytest.mark.parametrize("truth", [0.5, 0.9])
def test_interval_of_a_proportion_covers(rng, truth):
    draws = rng.random((TRIALS, 64)) < truth
    assert 0.92 <= covered([statistics.proportion(row) for row in draws], truth) <= 0.98


def test_all_hits_do_not_prove_perfection():
    found = statistics.proportion(np.ones(64, bool))
    assert found.value == found.high == 1.0
    assert 0.93 < found.low < 0.96


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40), st.floats(-1e3, 1e3))
def test_shifting_values_shifts_the_interval(values, shift):
    a, b = statistics.mean(values, resamples=50), statistics.mean(np.add(values, shift), resamples=50)
    assert np.allclose(np.subtract(b[:3], shift), a[:3], rtol=1e-9, atol=1e-6)
    assert a.low <= a.value + 1e-9 * abs(a.value) + 1e-9 or len(set(values)) > 1


def test_same_seed_same_interval(rng):
    values = rng.normal(size=50)
    assert statistics.mean(values, seed=3) == statistics.mean(values, seed=3)
    assert statistics.mean(values, seed=3) != statistics.mean(values, seed=4)


def test_what_is_held_at_once_does_not_change_the_interval(rng, monkeypatch):
    values = rng.normal(size=(50, 2))
    found = statistics.mean(values[:, 0]), statistics.ratio_of_means(*values.T)
    for chunk in (100, 1 << 22):
        monkeypatch.setattr(statistics, "_CHUNK", chunk)
        assert (statistics.mean(values[:, 0]), statistics.ratio_of_means(*values.T)) == found


def test_one_value_has_no_interval():
    found = statistics.mean([2.0])
    assert found.value == 2.0
    assert math.isnan(found.low)


def test_ratio_to_nothing_is_nan():
    assert math.isnan(statistics.ratio_of_means([1.0, 2.0], [0.0, 0.0]).value)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: statistics.mean([]), "at least 1 value"),
        (lambda: statistics.mean([1.0, math.nan]), "1 of 2 values are not finite"),
        (lambda: statistics.proportion([]), "at least 1 value"),
        (lambda: statistics.paired_difference([1.0, 2.0], [1.0]), "equal shapes"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_paired_proportions_as_published() -> None:
    """Newcombe (1998), Statistics in Medicine 17:2635, table II, method 10: 36 both, 12 and 2 of one alone."""
    pairs = [(1, 1)] * 36 + [(1, 0)] * 12 + [(0, 1)] * 2
    found = statistics.paired_proportions(*np.array(pairs, float).T)
    assert (found.low, found.high) == pytest.approx((0.0569, 0.3404), abs=1e-3)


def test_paired_proportions_cover() -> None:
    """Of 40 pairs that flip three times in ten, the upper bound misses the true difference about one time in forty."""
    rng = np.random.default_rng(0)
    misses = 0
    for _ in range(2000):
        before = rng.random(40) < 0.9
        after = np.where(rng.random(40) < 0.3, ~before, before)
        misses += statistics.paired_proportions(before, after).high < 0.9 - (0.9 * 0.7 + 0.1 * 0.3)
    assert 0.01 < misses / 2000 < 0.045


def test_paired_proportions_take_zeros_and_ones_alone() -> None:
    with pytest.raises(InputError, match="zeros and ones"):
        statistics.paired_proportions([0.5, 1.0], [1.0, 1.0])
    with pytest.raises(InputError, match="equal shapes"):
        statistics.paired_proportions([1.0, 1.0], [1.0])
