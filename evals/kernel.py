"""Unbiased kernel distance (squared maximum mean discrepancy) with a cubic polynomial kernel.

The estimator of Bińkowski et al. (2018), "Demystifying MMD GANs", used on video features as KVD: its expectation
does not depend on the number of clips, so it is the distance to read when there are few. It may come out negative
where there is nothing to see.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from evals.statistics import CONFIDENCE, Estimate
from magic141.errors import InputError

Array = NDArray[np.float64]
BLOCKS = 10


def polynomial_kernel(a: Array, b: Array) -> Array:
    """(a b^T / width + 1)^3 for rows of a (n, width) and b (m, width): (n, m)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def squared_mmd(a: ArrayLike, b: ArrayLike) -> float:
    """Unbiased squared MMD of (n, width) and (m, width) rows, n and m >= 2 (Gretton et al. 2012, eq. 3)."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if min(len(x), len(y)) < 2:
        raise InputError(f"a kernel distance needs at least 2 clips on each side, got {len(x)} and {len(y)}")

    def within(z: Array) -> float:
        kernel = polynomial_kernel(z, z)
        return float((kernel.sum() - np.trace(kernel)) / (len(z) * (len(z) - 1)))

    return within(x) + within(y) - 2 * float(polynomial_kernel(x, y).mean())


def kernel_distance(
    features: ArrayLike, reference: ArrayLike, *, blocks: int = BLOCKS, seed: int = 0
) -> Estimate:
    """Mean squared MMD of `blocks` disjoint blocks of features and reference, with a 95 % t interval.

    Blocks share no clip, so their spread gives the standard error honestly (Zaremba et al. 2013, "B-test").
    With fewer than 2 clips a block there are fewer blocks; with under 4 clips there is no interval (NaN).

    Args:
        features: (n, width) to judge; reference: (m, width) of the truth, m >= 2 blocks.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("features contain NaN or infinity; drop those clips, and report them")
    blocks = min(blocks, len(x) // 2, len(y) // 2)
    if blocks < 2:
        return Estimate(squared_mmd(x, y), math.nan, math.nan, len(x))
    rng = np.random.default_rng(seed)
    pairs = zip(
        np.array_split(x[rng.permutation(len(x))], blocks),
        np.array_split(y[rng.permutation(len(y))], blocks),
        strict=True,
    )
    values = np.array([squared_mmd(a, b) for a, b in pairs])
    value, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(blocks)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, blocks - 1)) * error
    return Estimate(value, value - reach, value + reach, len(x))
