"""A Fréchet distance between two sets of features, moments included."""

import numpy as np
import pytest

from bench.micro.conftest import Timed
from evals import frechet

CLIPS = 2048


@pytest.mark.parametrize("width", [64, 400])
def test_frechet_distance(priced: Timed, width: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, CLIPS, width))
    priced(
        lambda: frechet.distance(frechet.Moments.of(a), frechet.Moments.of(b)),
        10,
        tokens=2 * CLIPS,
        bytes=a.nbytes + b.nbytes,
        # Two scatter matrices, and of the decompositions the leading terms: 9 n^3 an `eigh`, 4 n^3 / 3 singular values.
        flops=2 * 2 * CLIPS * width**2 + 2 * 9 * width**3 + 2 * width**3 + 4 * width**3 // 3,
    )
