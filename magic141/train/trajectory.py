"""Method `trajectory`: a student of a few steps learns where the teacher's trajectories end (ODE-pair regression).

The simplest distillation (Luhman & Luhman 2021, arXiv 2101.02388) and the usual start of DMD2's students: from noise,
Euler's method with many steps of the guided teacher gives a trajectory; from its states at the student's few times the
student must predict its end. Where one condition leaves several ends, noises that are close lead to ends that are not,
which the student cannot tell apart, and the mean square blurs them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from magic141.train.fields import Field, Text, euler, field, predict_x0, step_times
from magic141.train.flow import Batch, normal
from magic141.train.method import Distillation
from magic141.transformer import Magic141Transformer3DModel


class TrajectoryRegression(Distillation):
    """The student, and what it learns from a batch: of the batch's latents only those that it gives are used.

    stride: steps of the teacher for one of the student.
    """

    def __init__(
        self,
        student: Magic141Transformer3DModel,
        teacher: Magic141Transformer3DModel,
        empty: Text,
        *,
        num_inference_steps: int,
        guidance_scale: float,
        shift: float,
        stride: int,
    ) -> None:
        super().__init__(student, teacher, empty, guidance_scale=guidance_scale, shift=shift)
        self.steps, self.stride = num_inference_steps, stride

    def forward(self, step: int, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        noise = normal(batch.latents, generator)
        states = trajectory(self.guided_teacher(batch), noise, self.steps, self.stride, self.shift)
        return loss(field(self.student, batch), states, step_times(self.steps, self.shift), batch.known)


def trajectory(teacher: Field, noise: Tensor, steps: int, stride: int, shift: float) -> list[Tensor]:
    """States (each of the shape of `noise`) at every `stride`-th time of `steps * stride` Euler steps, and the end."""
    fine = step_times(steps * stride, shift)
    return euler(teacher, noise, fine)[::stride]


def loss(student: Field, states: list[Tensor], times: Tensor, known: int) -> dict[str, Tensor]:
    """Mean square of the predicted end, over the unknown frames, from each state but the last, one a row.

    times: (steps + 1,) of the states. Rows take the states in turn, so that a batch of as many rows holds all of them.
    """
    end = states[-1]
    rows = torch.arange(len(end), device=end.device)
    state_of_row = rows % (len(states) - 1)
    x_t = torch.stack(states[:-1])[state_of_row, rows]  # of (states, B, 16, t, h, w) one state a row
    error = (predict_x0(student, x_t, times.to(end.device)[state_of_row]) - end)[:, :, known:].square().mean()
    return {"loss": error}
