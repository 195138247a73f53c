from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from evals.kernel import kernel_distance, squared_mmd
from magic141.errors import InputError


def test_agrees_with_torchmetrics(rng):
    a, b = rng.normal(size=(30, 12)), rng.normal(0.3, 1, size=(30, 12))

    assert squared_mmd(a, b) == pytest.approx(
        float(poly_mmd(torch.from_numpy(a), torch.from_numpy(b))), rel=1e-9
    )


def test_unbiased_at_any_sample_size(rng):
    for n in (8, 64):
        values = [squared_mmd(rng.normal(size=(n, 4)), rng.normal(size=(n, 4))) for _ in range(300)]
        assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)


def test_interval_covers_and_detects(rng):
    far = squared_mmd(rng.normal(0.4, 1, size=(6000, 4)), rng.normal(size=(6000, 4)))
    found = [
        kernel_distance(rng.normal(0.4, 1, size=(80, 4)), rng.normal(size=(200, 4)), seed=i)
        for i in range(400)
    ]
    assert 0.92 <= np.mean([f.low <= far <= f.high for f in found]) <= 0.98
    assert np.mean([f.low > 0 for f in found]) > 0.7


def test_few_clips_still_give_a_value(rng):
    found = kernel_distance(rng.normal(size=(3, 4)), rng.normal(size=(50, 4)))
    assert np.isfinite(found.value)
    assert np.isnan(found.low)


def test_bad_input_is_named():
    with pytest.raises(InputError, match="at least 2 clips"):
        squared_mmd(np.zeros((1, 4)), np.zeros((9, 4)))
    with pytest.raises(InputError, match="NaN"):
        kernel_distance(np.full((9, 4), np.nan), np.zeros((9, 4)))
