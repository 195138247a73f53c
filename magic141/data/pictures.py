"""Pictures of any kind as the one kind that models and scores take."""

from __future__ import annotations

import numpy as np
from PIL import Image

from magic141.errors import InputError


def as_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB, 8 bits a channel; greys of 16 bits are brought to 8.

    Raises InputError for one whose range nobody knows.
    """
    if image.mode.startswith("I;16"):  # `convert` would cut these, and those below, at 255
        return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise InputError(f"pixels of mode {image.mode!r} have no white: convert them to 8 or 16 bits")
    return image.convert("RGB")
