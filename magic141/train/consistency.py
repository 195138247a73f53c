"""Stage `consistency`: every point of a trajectory must lead to the same data (consistency distillation).

Song et al. 2023, arXiv 2303.01469, algorithm 2: the teacher moves noised data one Euler step towards the data, and the
student must predict from where it came what a slow copy of the student predicts from there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from magic141.scheduler import interpolate, shift_time
from magic141.train.fields import Field, data, draw

HUBER = 0.03
"""The loss is quadratic below an error of this size and linear above (iCT, arXiv 2310.14189, equation 8)."""


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
    grid = shift_time(torch.linspace(1, 0, steps + 1), shift)
    place = torch.randint(steps, (len(x0),), generator=generator)
    now, then = grid[place], grid[place + 1]
    x_now = interpolate(x0, draw(x0, generator), now)
    with torch.no_grad():
        x_then = x_now + (then - now).view(-1, 1, 1, 1, 1) * teacher(x_now, now)
        # The last step ends on data: there is nothing left to predict, and no field at time 0.
        ended = (then == 0).view(-1, 1, 1, 1, 1)
        aim = torch.where(ended, x_then, data(slow, x_then, then.clamp(min=1e-4)))
    error = (data(student, x_now, now) - aim)[:, :, known:]
    width = HUBER * error[0].numel() ** 0.5
    distance = (error.square().sum((1, 2, 3, 4)) + width**2).sqrt() - width
    return {"loss": distance.mean() / width, "error": error.detach().square().mean()}
