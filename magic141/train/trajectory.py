"""Stage `ode`: a student of a few steps learns where the teacher's trajectories end (ODE-pair regression).

The simplest distillation (Luhman & Luhman 2021, arXiv 2101.02388) and the usual start of DMD2's students: from noise,
Euler's method with many steps of the guided teacher gives a trajectory; from its states at the student's few times the
student must predict its end. Where one condition leaves several ends, and a step starts at noise, they are close, and
the mean square blurs them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from magic141.scheduler import shift_time
from magic141.train.fields import Field, data, euler


def trajectory(teacher: Field, noise: Tensor, steps: int, stride: int, shift: float) -> list[Tensor]:
    """States (each of the shape of `noise`) at every `stride`-th time of `steps * stride` Euler steps, and the end."""
    fine = shift_time(torch.linspace(1, 0, steps * stride + 1), shift)
    return euler(teacher, noise, fine)[::stride]


def loss(student: Field, states: list[Tensor], times: Tensor, known: int) -> dict[str, Tensor]:
    """Mean square of the predicted end, over the unknown frames, from each state but the last, one a row.

    times: (steps + 1,) of the states. Rows take the states in turn, so that a batch holds all of them.
    """
    end = states[-1]
    place = torch.arange(len(end)) % (len(states) - 1)
    x_t = torch.stack(states[:-1])[place, torch.arange(len(end))]
    error = (data(student, x_t, times[place]) - end)[:, :, known:].square().mean()
    return {"loss": error}
