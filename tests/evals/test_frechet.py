from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg
from torchmetrics.image.fid import _compute_fid

from evals import frechet
from evals.frechet import Moments, extrapolated, frechet_distance
from magic141.errors import InputError


def gaussian(rng, width, rank=None):
    root = rng.normal(size=(width, rank or 2 * width)) / np.sqrt(width)
    return rng.normal(size=width), root @ root.T


def by_sqrtm(mean_a, cov_a, mean_b, cov_b):
    root = linalg.sqrtm(cov_a @ cov_b).real
    return ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)


@pytest.mark.parametrize("width", [1, 16, 64, 200, 400])
def test_agrees_with_scipy_and_torchmetrics(rng, width):
    a, b = gaussian(rng, width), gaussian(rng, width)
    ours = frechet_distance(*a, *b)
    assert ours == pytest.approx(by_sqrtm(*a, *b), rel=1e-6)
    theirs = _compute_fid(*(torch.from_numpy(x) for x in (*a, *b)))
    assert ours == pytest.approx(float(theirs), rel=1e-6)


@pytest.mark.parametrize(
    ("width", "rank"), [(16, 3), (32, 1), (32, 20), (64, 63), (200, 50), (400, 64), (400, 399)]
)
def test_rank_deficient_pairs_agree_with_scipy(rng, width, rank):
    """sqrtm fails on a singular A A^T B B^T, and not on A^T B B^T A: (rank, rank), with the same eigenvalues."""
    roots = [rng.normal(size=(width, rank)) / width**0.5 for _ in range(2)]
    means = rng.normal(size=(2, width))
    small = roots[0].T @ roots[1]
    root = np.trace(linalg.sqrtm(small @ small.T).real)
    expected = ((means[0] - means[1]) ** 2).sum() + sum((r**2).sum() for r in roots) - 2 * root
    got = frechet_distance(means[0], roots[0] @ roots[0].T, means[1], roots[1] @ roots[1].T)
    assert got == pytest.approx(expected, rel=1e-6)


def test_known_gaussians():
    eye = np.eye(5)
    assert frechet_distance(np.zeros(5), eye, np.full(5, 2.0), eye) == pytest.approx(20.0)
    # Commuting covariances: the squared distance of standard deviations.
    assert frechet_distance(np.zeros(5), 4 * eye, np.zeros(5), 9 * eye) == pytest.approx(5.0)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**16), width=st.integers(1, 12))
def test_symmetric_zero_to_itself_and_blind_to_rotation(seed, width):
    rng = np.random.default_rng(seed)
    a, b = gaussian(rng, width), gaussian(rng, width)
    forward = frechet_distance(*a, *b)
    assert forward == pytest.approx(frechet_distance(*b, *a), rel=1e-9)
    assert frechet_distance(*a, *a) == pytest.approx(0, abs=1e-9 * np.trace(a[1]))
    q = np.linalg.qr(rng.normal(size=(width, width)))[0]
    turned = frechet_distance(q @ a[0], q @ a[1] @ q.T, q @ b[0], q @ b[1] @ q.T)
    assert turned == pytest.approx(forward, rel=1e-7)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**16), cuts=st.lists(st.integers(0, 60), max_size=4), offset=st.floats(-1e4, 1e4))
def test_merging_shards_equals_one_pass(seed, cuts, offset):
    rows = np.random.default_rng(seed).normal(size=(60, 5)) + offset
    merged = Moments.empty(5)
    for shard in np.split(rows, sorted(cuts)):
        merged = merged.merge(Moments.of(shard))
    whole = Moments.of(rows)
    assert merged.n == whole.n
    assert np.allclose(merged.mean, whole.mean, rtol=1e-9, atol=1e-9)
    assert np.allclose(merged.covariance(), np.cov(rows.T), rtol=1e-9, atol=1e-9)


def exact(mean, covariance):
    """Moments of a population: so many rows that n - 1 = n."""
    return Moments(10**12, mean, covariance * (10**12 - 1))


def test_extrapolation_removes_the_bias_and_its_interval_covers(rng):
    width, n, trials = 8, 128, 500
    mean, covariance = gaussian(rng, width)
    reference = exact(mean, covariance)
    truth = frechet_distance(mean + 0.3, 1.3 * covariance, mean, covariance)
    plain, found = [], []
    for trial in range(trials):
        rows = rng.multivariate_normal(mean + 0.3, 1.3 * covariance, size=n)
        plain.append(frechet.distance(Moments.of(rows), reference))
        found.append(extrapolated(rows, reference, seed=trial, draws=2))
    error = np.std([f.value for f in found]) / np.sqrt(trials)
    assert np.mean(plain) - truth > 10 * error
    assert abs(np.mean([f.value for f in found]) - truth) < 0.2 * (np.mean(plain) - truth)
    assert 0.92 <= np.mean([f.low <= truth <= f.high for f in found]) <= 0.98


@pytest.mark.parametrize(
    ("width", "n"), [(16, 256), pytest.param(64, 512, marks=pytest.mark.slow)], ids=["16", "64"]
)
def test_a_known_distance_is_in_at_least_90_of_100_intervals(rng, width, n):
    mean, covariance = gaussian(rng, width)
    reference = exact(mean, covariance)
    truth = frechet_distance(mean + 0.3, 1.3 * covariance, mean, covariance)
    root = np.linalg.cholesky(1.3 * covariance)
    hits = 0
    for trial in range(100):
        found = extrapolated(mean + 0.3 + rng.normal(size=(n, width)) @ root.T, reference, seed=trial)
        hits += found.low <= truth <= found.high
    assert hits >= 90


def test_truth_against_truth_is_zero_within_its_interval(rng):
    found = [
        extrapolated(rng.normal(size=(256, 8)), exact(np.zeros(8), np.eye(8)), seed=i) for i in range(40)
    ]
    assert np.mean([f.low <= 0 <= f.high for f in found]) >= 0.9


def test_influence_is_the_derivative(rng):
    rows = rng.normal(size=(40, 4))
    reference = exact(*gaussian(rng, 4))
    step = 1e-6

    def weighted(weights):
        mean = weights @ rows / weights.sum()
        centred = rows - mean
        covariance = (centred * weights[:, None]).T @ centred / weights.sum()
        return frechet_distance(mean, covariance, reference.mean, reference.covariance())

    weights = np.full(40, 1 / 40)
    nudged = weights.copy()
    nudged[3] += step
    slope = (weighted(nudged) - weighted(weights)) / step
    # `influence` divides by n - 1; the population derivative by n.
    assert frechet.influence(rows, reference)[3] == pytest.approx(slope, rel=0.1, abs=0.02)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Moments.of([[1.0, np.nan]]), "NaN"),
        (lambda: Moments.of([1.0, 2.0]), "n, width"),
        (lambda: Moments.empty(3).merge(Moments.empty(4)), "width 3 and 4"),
        (lambda: Moments.of([[1.0, 2.0]]).covariance(), "more than 1 rows"),
        (lambda: frechet_distance([0.0], [[1.0]], [0.0, 0.0], np.eye(2)), "differ in width"),
        (
            lambda: extrapolated(np.zeros((40, 32)), exact(np.zeros(32), np.eye(32))),
            "at least 46 clips, got 40",
        ),
        (lambda: extrapolated(np.zeros((64, 4)), exact(np.zeros(4), np.eye(4))), "singular"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()


@pytest.mark.parametrize("spectrum", ["white", "1/i", "1/i^2"])
def test_at_four_clips_a_number_the_parabola_is_hardly_biased_and_its_interval_holds(rng, spectrum):
    width, scale = 32, 1.1
    variance = {
        "white": np.ones(width),
        "1/i": 1 / np.arange(1, width + 1),
        "1/i^2": 1 / np.arange(1, width + 1) ** 2,
    }
    spread = variance[spectrum] * width / variance[spectrum].sum()
    exact = Moments(10**9, np.zeros(width), np.diag(spread) * (10**9 - 1))
    truth = (scale - 1) ** 2 * width
    samples = [rng.normal(size=(4 * width, width)) * np.sqrt(spread) * scale for _ in range(60)]
    line, parabola = ([extrapolated(x, exact, degree=degree, draws=2) for x in samples] for degree in (1, 2))
    bias = [abs(np.mean([found.value for found in many]) - truth) for many in (line, parabola)]
    assert bias[1] < max(0.5 * bias[0], 0.2)
    assert np.mean([found.low <= truth <= found.high for found in parabola]) >= 0.8
