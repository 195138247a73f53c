from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from evals.kernel import kernel_distance
from magic141.errors import InputError


def test_agrees_with_torchmetrics(rng):
    a, b = rng.normal(size=(30, 12)), rng.normal(0.3, 1, size=(30, 12))
    expected = float(poly_mmd(torch.from_numpy(a), torch.from_numpy(b)))
    assert kernel_distance(a, b).value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [8, 64])
def test_unbiased_at_any_sample_size(rng, n):
    values = [kernel_distance(rng.normal(size=(n, 4)), rng.normal(size=(n, 4))).value for _ in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)


def test_interval_covers(rng):
    """The truth is the mean of many independent estimates, which are unbiased."""
    draws = [kernel_distance(rng.normal(0.3, 1, size=(64, 8)), rng.normal(size=(256, 8))) for _ in range(500)]
    truth = np.mean([draw.value for draw in draws])
    assert 0.92 <= np.mean([draw.low <= truth <= draw.high for draw in draws]) <= 0.98


def test_truth_against_truth_is_zero_within_its_interval(rng):
    draws = [kernel_distance(rng.normal(size=(64, 8)), rng.normal(size=(256, 8))) for _ in range(200)]
    assert np.mean([draw.low <= 0 <= draw.high for draw in draws]) >= 0.92


def test_few_clips_still_give_a_value(rng):
    found = kernel_distance(rng.normal(size=(3, 4)), rng.normal(size=(50, 4)))
    assert np.isfinite(found.value)
    assert np.isnan(found.low)


def test_bad_input_is_named():
    with pytest.raises(InputError, match="at least 2 clips"):
        kernel_distance(np.zeros((1, 4)), np.zeros((9, 4)))
    with pytest.raises(InputError, match="NaN"):
        kernel_distance(np.full((9, 4), np.nan), np.zeros((9, 4)))
