"""Whatever a caller has for an image, as pixels: files, PIL images, numpy arrays, tensors."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from magic141.data.pictures import as_rgb
from magic141.errors import InputError
from magic141.video import read_image

ImageInput = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor


def as_pixels(image: ImageInput | Sequence[ImageInput], count: int, height: int, width: int) -> Tensor:
    """`count` images of the given size as pixels (count, 3, H, W) in [-1, 1]; one image serves all.

    Takes file names, PIL images, uint8 arrays and tensors (H, W, 3), float arrays (H, W, 3) and float tensors
    (3, H, W) in [0, 1] (so what a pipeline returns can be given back), a list or a batch of these.

    Raises InputError: not an image, another size, values out of range, or another number of images.
    """
    if isinstance(image, np.ndarray | Tensor) and image.ndim == 4:
        images: list[ImageInput] = list(image)
    elif isinstance(image, Sequence) and not isinstance(image, str):
        images = list(image)
    else:
        images = [image]
    if len(images) not in (1, count):
        raise InputError(f"{len(images)} images for {count} prompts: give one for all, or one for each")
    pixels = torch.stack([_one(item, height, width) for item in images])
    return (pixels * 2 - 1).expand(count, -1, -1, -1)


def _one(image: ImageInput, height: int, width: int) -> Tensor:
    """(3, H, W) in [0, 1]."""
    if isinstance(image, str | os.PathLike):
        image = read_image(image)
    if isinstance(image, Image.Image):
        image = np.array(as_rgb(image))
    if not isinstance(image, np.ndarray | Tensor):
        raise InputError(
            f"image must be a file name, a PIL image, an array or a tensor, got {type(image).__name__}"
        )

    if isinstance(image, np.ndarray) and image.dtype.kind not in "iufb":
        raise InputError(f"image has type {image.dtype}: convert it to uint8, or to floats in [0, 1]")
    # Arrays seen backwards, as OpenCV's colours often are, cannot be shared.
    pixels = image if isinstance(image, Tensor) else torch.as_tensor(np.ascontiguousarray(image))
    is_bytes = pixels.dtype == torch.uint8
    channels_first = isinstance(image, Tensor) and not is_bytes
    shape = (3, height, width) if channels_first else (height, width, 3)
    if not is_bytes and not pixels.is_floating_point():
        raise InputError(f"image has type {pixels.dtype}: convert it to uint8, or to floats in [0, 1]")
    if tuple(pixels.shape) != shape:
        raise InputError(
            f"image has shape {tuple(pixels.shape)} and must have {shape} ({width}x{height} pixels): resize it first"
        )
    pixels = pixels.float() / 255 if is_bytes else pixels.float()
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise InputError(f"image values span [{low:g}, {high:g}]: floats must lie in [0, 1]")
    return pixels if channels_first else pixels.permute(2, 0, 1)
