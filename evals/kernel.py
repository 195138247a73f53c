"""Unbiased kernel distance (squared maximum mean discrepancy) with a cubic polynomial kernel.

The estimator of Bińkowski et al. (2018), "Demystifying MMD GANs", used on video features as KVD: its expectation
does not depend on the number of clips, so it is the distance to read when there are few. It may come out negative
where there is nothing to see.

Its standard error comes from the first-order effect of each clip (Hoeffding's projection). Averaging over disjoint
blocks, the usual way, covers as well but gives away most pairs: on 64 clips of truth its interval was ten times wider.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from evals.statistics import CONFIDENCE, Estimate
from magic141.errors import InputError

Array = NDArray[np.float64]
_LEAST = 4


def polynomial_kernel(a: Array, b: Array) -> Array:
    """(a b^T / width + 1)^3 for rows of a (n, width) and b (m, width): (n, m)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def kernel_distance(features: ArrayLike, reference: ArrayLike) -> Estimate:
    """Unbiased squared MMD (Gretton et al. 2012, eq. 3) of (n, width) and (m, width) rows, with a 95 % t interval.

    The n in the result counts `features`. With fewer than 4 rows there is no interval (NaN).

    Raises:
        InputError: fewer than 2 rows on a side, or values that are not finite.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise InputError(f"a kernel distance needs at least 2 clips on each side, got {n} and {m}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("features contain NaN or infinity; drop those clips, and report them")
    within_x, within_y, across = polynomial_kernel(x, x), polynomial_kernel(y, y), polynomial_kernel(x, y)
    np.fill_diagonal(within_x, 0.0)
    np.fill_diagonal(within_y, 0.0)
    mean_x, mean_y = within_x.sum(axis=1) / (n - 1), within_y.sum(axis=1) / (m - 1)
    value = float(mean_x.mean() + mean_y.mean() - 2 * across.mean())
    if n < _LEAST:
        return Estimate(value, math.nan, math.nan, n)
    effect_x, effect_y = 2 * (mean_x - across.mean(axis=1)), 2 * (mean_y - across.mean(axis=0))
    error = math.sqrt(effect_x.var(ddof=1) / n + effect_y.var(ddof=1) / m)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return Estimate(value, value - reach, value + reach, n)
