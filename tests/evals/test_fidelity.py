from __future__ import annotations

import numpy as np
import pytest

from evals.fidelity import CEILING, psnr
from magic141.errors import InputError


def test_by_hand():
    a = np.full((3, 4, 4, 3), 100, np.uint8)
    b = a.copy()
    b[1] += 1
    b[2] = 0
    assert psnr(a, b) == pytest.approx([CEILING, 20 * np.log10(255), 20 * np.log10(2.55)])


def test_dark_and_bright_errors_weigh_the_same():
    a, b = np.full((1, 2, 2, 3), 250, np.uint8), np.full((1, 2, 2, 3), 5, np.uint8)
    assert psnr(a, b) == psnr(b, a) == pytest.approx(20 * np.log10(255 / 245))


def test_bad_input_is_named():
    a = np.zeros((1, 4, 4, 3), np.uint8)
    with pytest.raises(InputError, match="shapes"):
        psnr(a, a[:, :2])
    with pytest.raises(InputError, match="uint8"):
        psnr(a, a.astype(float))
