"""Fréchet distance between Gaussians (Heusel et al. 2017, eq. 6), with the care that a finite sample needs.

The plain distance of N samples is biased upward by about b/N (Chong and Forsyth 2020, "Effectively Unbiased FID").
`extrapolated` fits that law on sub-samples drawn without replacement and returns the value at 1/N = 0. Its interval
comes from the influence of each row (`influence`), never from a bootstrap.
All arithmetic is float64 numpy: widths here are at most a few hundred.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from evals.statistics import CONFIDENCE, Estimate
from magic141.errors import InputError

Array = NDArray[np.float64]
_QUARTERS = 4
_WIDTHS = 4
"""Clips a number of the features, from which a parabola in 1/N extrapolates: its smallest sub-samples have half."""


@dataclass
class Moments:
    """Running count, mean and scatter of feature rows; batches stream in and shards merge (Chan et al. 1979).

    Attributes:
        n: rows seen.
        mean: (width,).
        scatter: (width, width), the sum of (x - mean)(x - mean)^T.
    """

    n: int
    mean: Array
    scatter: Array

    @classmethod
    def empty(cls, width: int) -> Moments:
        return cls(0, np.zeros(width), np.zeros((width, width)))

    @classmethod
    def of(cls, features: ArrayLike) -> Moments:
        """Moments of (n, width) features in one pass over centred rows."""
        x = np.asarray(features, dtype=np.float64)
        if x.ndim != 2:
            raise InputError(f"features must be (n, width), got shape {x.shape}")
        if not np.isfinite(x).all():
            raise InputError("features contain NaN or infinity; drop those clips, and report them")
        if len(x) == 0:
            return cls.empty(x.shape[1])
        mean = x.mean(axis=0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets of rows together."""
        if self.mean.shape != other.mean.shape:
            raise InputError(f"cannot merge moments of width {self.mean.size} and {other.mean.size}")
        n = self.n + other.n
        if n == 0:
            return self
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.n / n)
        scatter = self.scatter + other.scatter + np.outer(delta, delta) * (self.n * other.n / n)
        return Moments(n, mean, scatter)

    def update(self, features: ArrayLike) -> Moments:
        """Moments after (n, width) further rows."""
        return self.merge(Moments.of(features))

    def covariance(self, ddof: int = 1) -> Array:
        """(width, width); ddof 1 divides by n - 1, ddof 0 by n."""
        if self.n <= ddof:
            raise InputError(f"a covariance with ddof {ddof} needs more than {ddof} rows, got {self.n}")
        return self.scatter / (self.n - ddof)


def _root_factor(covariance: Array) -> Array:
    """L with L L^T = covariance, rounding noise below machine precision cut off."""
    values, vectors = np.linalg.eigh(covariance)
    limit = values.max(initial=0.0) * len(values) * np.finfo(np.float64).eps
    return vectors * np.sqrt(np.where(values > limit, values, 0.0))


def frechet_distance(mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike) -> float:
    """|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)).

    The trace of the root is the nuclear norm of L_a^T L_b with cov = L L^T: no square root of a non-symmetric
    matrix, no complex residue, and nothing to add to a diagonal when a covariance is rank-deficient.

    Raises:
        InputError: shapes differ, or something is not finite.
    """
    mu_a, c_a, mu_b, c_b = (np.asarray(x, dtype=np.float64) for x in (mean_a, cov_a, mean_b, cov_b))
    if not (mu_a.shape == mu_b.shape and c_a.shape == c_b.shape == (mu_a.size, mu_a.size)):
        raise InputError(f"moments differ in width: {mu_a.shape}, {c_a.shape}, {mu_b.shape}, {c_b.shape}")
    if not all(np.isfinite(x).all() for x in (mu_a, c_a, mu_b, c_b)):
        raise InputError("moments contain NaN or infinity; drop the clips that caused it, and report them")
    root_trace = np.linalg.svd(_root_factor(c_a).T @ _root_factor(c_b), compute_uv=False).sum()
    distance = ((mu_a - mu_b) ** 2).sum() + np.trace(c_a) + np.trace(c_b) - 2 * root_trace
    return float(max(distance, 0.0))


def distance(a: Moments, b: Moments, ddof: int = 1) -> float:
    """`frechet_distance` of two sets of rows."""
    return frechet_distance(a.mean, a.covariance(ddof), b.mean, b.covariance(ddof))


def _subsamples(n: int, size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Rows of `_QUARTERS` sub-samples without replacement: windows on a random circle of all rows.

    Every row is in equally many of them (to rounding), so that in their mean the noise that is linear in the rows
    cancels against that of the whole sample, and only the bias that we are after is left.
    """
    circle = rng.permutation(n)
    starts = [round(i * n / _QUARTERS) for i in range(_QUARTERS)]
    return [np.take(circle, range(start, start + size), mode="wrap") for start in starts]


def _fit(
    features: Array, to_reference: Callable[[Array], float], rng: np.random.Generator, draws: int, degree: int
) -> float:
    """Intercept of the least-squares polynomial through (1/m, distance at m), m = 1/2, 3/4 and 1 of the rows.

    Sizes up to the width + 1 are left out: there the covariance is singular and the 1/m law does not hold.
    """
    n, width = features.shape
    sizes = [size for size in (n // 2, n * 3 // 4) if size > width + 1]
    x, y = [1 / n], [to_reference(features)]
    for size in sizes:
        picks = [rows for _ in range(draws) for rows in _subsamples(n, size, rng)]
        x.append(1 / size)
        y.append(float(np.mean([to_reference(features[rows]) for rows in picks])))
    return float(np.polynomial.Polynomial.fit(x, y, degree)(0.0))


def extrapolated(
    features: ArrayLike, reference: Moments, *, degree: Literal[1, 2] = 1, seed: int = 0, draws: int = 8
) -> Estimate:
    """Fréchet distance extrapolated to infinitely many samples, with a 95 % interval.

    distance(m) = distance(infinity) + b / m, of degree 2 also + c / m^2, is fitted on sub-samples without replacement;
    the standard error is that of `influence`.

    Args:
        features: (N, width) of the clips to judge. reference: moments of the truth, taken as exact.
        degree: 1 leaves a bias where N is a small multiple of the width (of Gaussians whose deviation is a tenth too
            large, width 400 and N = 1,600, -2.6 of 4), which has to be subtracted as truth's own; 2 leaves little.
        draws: random circles of sub-samples for the fit.

    Raises:
        InputError: N < 4/3 (width + 2): the covariance of a sub-sample is singular; or, of degree 2, N < 4 width: the
            smallest sub-samples are too near to that. Use the kernel distance.
    """
    x = np.asarray(features, dtype=np.float64)
    n, width = x.shape
    least = math.ceil((width + 2) * 4 / 3) if degree == 1 else _WIDTHS * width
    if n < least:
        raise InputError(
            f"a Fréchet distance of width {width} needs at least {least} clips, got {n}; score more clips, or use the "
            "kernel distance"
        )
    covariance = reference.covariance()
    root = _root_factor(covariance)
    trace = float(np.trace(covariance))

    def to_reference(rows: Array) -> float:
        moments = Moments.of(rows)
        own = moments.covariance()
        # More rows than width: nothing is rank-deficient, and the eigenvalues of a symmetric product are cheapest.
        root_trace = np.sqrt(np.linalg.eigvalsh(root.T @ own @ root).clip(min=0.0)).sum()
        return float(((moments.mean - reference.mean) ** 2).sum() + np.trace(own) + trace - 2 * root_trace)

    value = _fit(x, to_reference, np.random.default_rng(seed), draws, degree)
    error = float(influence(x, reference).std(ddof=1)) / math.sqrt(n)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return Estimate(value, value - reach, value + reach, n)


def influence(features: ArrayLike, reference: Moments) -> Array:
    """First-order effect of each row of (n, width) features on the distance to a reference: (n,), mean 0.

    The gradient of the distance is 2 (mean - mean_ref) in the mean and I - T in the covariance, T being the optimal
    transport map C^(-1/2) (C^(1/2) C_ref C^(1/2))^(1/2) C^(-1/2) (Dowson and Landau 1982; Takatsu 2011). The standard
    deviation over sqrt(n) is the standard error of the distance, the infinitesimal jackknife: it needs no resampling,
    which a Fréchet distance does not survive.
    """
    x = np.asarray(features, dtype=np.float64)
    centred = x - x.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / (len(x) - 1))
    if values[0] <= values[-1] * np.finfo(np.float64).eps * len(values):
        raise InputError(
            f"the covariance of {len(x)} rows of width {x.shape[1]} is singular; duplicates, or too few clips"
        )
    half = (vectors * np.sqrt(values)) @ vectors.T
    inverse = (vectors / np.sqrt(values)) @ vectors.T
    inner_values, inner_vectors = np.linalg.eigh(half @ reference.covariance() @ half)
    inner = (inner_vectors * np.sqrt(inner_values.clip(min=0.0))) @ inner_vectors.T
    slope = np.eye(x.shape[1]) - inverse @ inner @ inverse
    effect = 2 * centred @ (x.mean(axis=0) - reference.mean) + np.einsum(
        "ij,jk,ik->i", centred, slope, centred
    )
    return np.asarray(effect - effect.mean())
