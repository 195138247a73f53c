"""Method `consistency`: every point of a trajectory must lead to the same data (consistency distillation).

Song et al. 2023, arXiv 2303.01469, algorithm 2: the teacher moves noised data one Euler step towards the data, and the
student must predict from where it came what a slow copy of the student predicts from there.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from magic141.scheduler import interpolate
from magic141.train.fields import Field, Text, field, predict_x0, step_times
from magic141.train.flow import Batch, normal
from magic141.train.method import Distillation
from magic141.transformer import Magic141Transformer3DModel

HUBER = 0.03
"""The loss is quadratic below an error of this size and linear above (iCT, arXiv 2310.14189, equation 8)."""
SLOWNESS = 0.95
"""What the slow copy keeps of itself at each step."""


class ConsistencyDistillation(Distillation):
    """The student and its slow copy. `grid`: times between which neighbours are taken."""

    def __init__(
        self,
        student: Magic141Transformer3DModel,
        teacher: Magic141Transformer3DModel,
        empty: Text,
        *,
        guidance_scale: float,
        shift: float,
        grid: int,
    ) -> None:
        super().__init__(student, teacher, empty, guidance_scale=guidance_scale, shift=shift)
        self.slow, self.grid = copy.deepcopy(student).requires_grad_(False), grid

    def forward(self, step: int, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        with torch.no_grad():
            for mean, value in zip(self.slow.parameters(), self.student.parameters(), strict=True):
                mean.lerp_(value, 1 - SLOWNESS)
        return loss(
            field(self.student, batch),
            field(self.slow, batch),
            self.guided_teacher(batch),
            batch.latents,
            batch.known,
            self.grid,
            self.shift,
            generator,
        )


def loss(
    student: Field,
    slow: Field,
    teacher: Field,
    x0: Tensor,
    known: int,
    steps: int,
    shift: float,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Pseudo-Huber distance of neighbouring predictions, on a grid of `steps` times, over the unknown frames."""
    grid = step_times(steps, shift).to(x0.device)
    place = torch.randint(steps, (len(x0),), generator=generator).to(x0.device)
    now, then = grid[place], grid[place + 1]
    x_now = interpolate(x0, normal(x0, generator), now)
    with torch.no_grad():
        x_then = x_now + (then - now).view(-1, 1, 1, 1, 1) * teacher(x_now, now)
        # The last step ends on data: there is nothing left to predict, and no field at time 0. What the clamped time
        # makes there instead is not taken.
        ended = (then == 0).view(-1, 1, 1, 1, 1)
        aim = torch.where(ended, x_then, predict_x0(slow, x_then, then.clamp(min=1e-4)))
    error = (predict_x0(student, x_now, now) - aim)[:, :, known:]
    width = HUBER * error[0].numel() ** 0.5
    distance = (error.square().sum((1, 2, 3, 4)) + width**2).sqrt() - width
    return {"loss": distance.mean() / width, "error": error.detach().square().mean()}
