"""Method `cfg`: guidance becomes a part of the weights, so that a step costs one pass instead of two.

The student matches `uncond + w (cond - uncond)` of the teacher for one fixed w (Meng et al. 2022, arXiv 2210.03142,
stage one; the paper's first distillation). It starts from the teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor

from magic141.scheduler import interpolate
from magic141.train.fields import Field, field
from magic141.train.flow import Batch, normal, times
from magic141.train.method import Distillation


class CfgDistillation(Distillation):
    """The student, and what it learns from a batch."""

    def forward(self, step: int, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        target = self.guided_teacher(batch)
        return loss(field(self.student, batch), target, batch.latents, batch.known, self.shift, generator)


def loss(
    student: Field, target: Field, x0: Tensor, known: int, shift: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Mean square of `student - target` at noised data x0 (B, 16, t, h, w), over the unknown frames."""
    t = times(len(x0), shift, generator).to(x0.device)
    x_t = interpolate(x0, normal(x0, generator), t)
    with torch.no_grad():
        aim = target(x_t, t)
    error = (student(x_t, t) - aim)[:, :, known:].square().mean()
    return {"loss": error}
