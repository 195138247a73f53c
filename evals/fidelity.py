"""How faithfully a generated clip keeps the image it was given."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from magic141.errors import InputError

CEILING = 60.0
"""dB given to identical images, whose PSNR is infinite and would swamp a mean; an error of one grey level in every
pixel is 48.1 dB."""


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio, 10 log10(255^2 / mean squared error), of image pairs, at most `CEILING`.

    Args:
        a, b: uint8 (N, H, W, C).

    Returns:
        (N,) dB.

    Raises:
        InputError: shapes differ or values are not 8-bit.
    """
    if a.shape != b.shape:
        raise InputError(f"images of shapes {a.shape} and {b.shape} cannot be compared; resize one")
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise InputError(f"images must be uint8, got {a.dtype} and {b.dtype}; convert to 0-255")
    error = ((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean(axis=(1, 2, 3))
    return np.minimum(10 * np.log10(255.0**2 / np.maximum(error, 1e-12)), CEILING)
