"""Temporal flickering, as VBench computes it (Huang et al. 2024, `vbench/temporal_flickering.py`).

score = (255 - mean over consecutive frames of mean |frame_t+1 - frame_t|) / 255, on 8-bit pixels. Higher is called
better, and a still picture scores 1: read it beside a motion score, never alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from magic141.errors import InputError


def temporal_flickering(frames: Iterable[NDArray[np.uint8]]) -> float:
    """Score of one clip.

    Args:
        frames: uint8 (H, W, C) frames in order, an array (T, H, W, C) or any iterable: a decoder may stream.

    Raises:
        InputError: fewer than 2 frames, frames of different shapes, or not 8-bit.
    """
    previous: NDArray[np.uint8] | None = None
    total, pairs = 0.0, 0
    for frame in frames:
        if frame.dtype != np.uint8:
            raise InputError(
                f"flickering is defined on 8-bit frames, got {frame.dtype}; convert to uint8 in 0-255"
            )
        if previous is not None:
            if frame.shape != previous.shape:
                raise InputError(
                    f"frames change shape from {previous.shape} to {frame.shape}; resize the clip"
                )
            total += float(cv2.absdiff(np.ascontiguousarray(frame), previous).mean(dtype=np.float64))
            pairs += 1
        previous = np.ascontiguousarray(frame)
    if not pairs:
        raise InputError("flickering needs at least 2 frames; an image has none")
    return (255.0 - total / pairs) / 255.0
