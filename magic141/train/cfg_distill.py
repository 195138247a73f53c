"""Stage `cfg`: guidance becomes a part of the weights, so that a step costs one pass instead of two.

The student matches `uncond + w (cond - uncond)` of the teacher for one fixed w (Meng et al. 2022, arXiv 2210.03142,
stage one; the paper's first distillation). It starts from the teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor

from magic141.scheduler import interpolate
from magic141.train.fields import Field, draw
from magic141.train.flow import times


def loss(
    student: Field, target: Field, x0: Tensor, known: int, shift: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Mean square of `student - target` at noised data x0 (B, 16, t, h, w), over the unknown frames."""
    t = times(len(x0), shift, generator)
    x_t = interpolate(x0, draw(x0, generator), t)
    with torch.no_grad():
        aim = target(x_t, t)
    error = (student(x_t, t) - aim)[:, :, known:].square().mean()
    return {"loss": error}
