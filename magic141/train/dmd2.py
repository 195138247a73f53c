"""Methods `dmd` and `dmd2`: a student of a few steps whose clips are distributed as the teacher's.

Improved Distribution Matching Distillation (Yin et al. 2024, arXiv 2405.14867, "DMD2"). Three models: the student
that generates; the teacher, whose score is that of real data; the critic, whose score is that of the student's clips,
learned as the student changes. Two losses for the student,

    matching      x moves along  s_real(x_t) - s_fake(x_t)            (DMD, arXiv 2311.18828, equation 7)
    adversarial   softplus(-D(x_t))                                   (DMD2, equation 4)

and two for the critic: flow matching on the student's clips (DMD, equation 6, of velocities), and telling them from
real ones, both noised (the other half of DMD2's equation 4). The critic learns `critic_updates` times, then the
student once (DMD2, section 4.2), on clips that it makes as it will be used (backward simulation, section 4.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magic141.scheduler import interpolate, shift_time
from magic141.train.fields import (
    Field,
    Text,
    backward_simulation,
    features,
    field,
    predict_x0,
    step_times,
)
from magic141.train.flow import Batch, normal
from magic141.train.method import Distillation
from magic141.transformer import Magic141Transformer3DModel

TIME_RANGE = (0.02, 0.98)
"""Scores are compared at these times: nearer to data or noise they say little, or too much."""
ADVERSARY_BLOCK = 2
"""Block of the critic on whose video tokens its head judges: the middle one."""
CRITIC_PACE = 2.0
"""Learning rate of the critic and its head over that of the student."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """`adversarial`: weight of that term, 0 for method `dmd`. `critic_updates`: for each update of the student."""

    num_inference_steps: int = 4
    shift: float = 3.0
    guidance_scale: float = 2.0
    critic_updates: int = 2
    adversarial: float = 0.0


class Critic(nn.Module):
    """The score of the student's clips, and on its features a head that tells them from real ones."""

    def __init__(self, transformer: Magic141Transformer3DModel) -> None:
        super().__init__()
        self.transformer = transformer
        width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )


class Dmd2(Distillation):
    """Student and critic, trained in turns."""

    def __init__(
        self,
        student: Magic141Transformer3DModel,
        critic: Critic,
        teacher: Magic141Transformer3DModel,
        empty: Text,
        recipe: Recipe,
    ) -> None:
        super().__init__(student, teacher, empty, guidance_scale=recipe.guidance_scale, shift=recipe.shift)
        self.critic, self.recipe = critic, recipe
        self.turns = recipe.critic_updates + 1
        self.times = step_times(recipe.num_inference_steps, recipe.shift)

    def forward(self, step: int, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Loss terms of update `step`: `critic_updates` of the critic, then one of the student, and again."""
        students_turn = step % self.turns == self.turns - 1
        self.critic.requires_grad_(not students_turn)
        with torch.set_grad_enabled(students_turn):
            x0 = self.generate(batch, generator)
        t = score_times(len(x0), self.shift, generator).to(x0.device)
        noise = normal(x0, generator)
        return (self.student_terms if students_turn else self.critic_terms)(x0, noise, t, batch)

    def generate(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The student's clips after 1 to all of its steps, of which the last alone keeps a gradient."""
        student = field(self.student, batch)
        exit_step = int(torch.randint(self.recipe.num_inference_steps, (), generator=generator))
        noise = normal(batch.latents, generator)
        x_t, t = backward_simulation(student, noise, self.times, exit_step, generator)
        return predict_x0(student, x_t, t)

    def student_terms(self, x0: Tensor, noise: Tensor, t: Tensor, batch: Batch) -> dict[str, Tensor]:
        x_t = interpolate(x0, noise, t)
        with torch.no_grad():
            real = predict_x0(self.guided_teacher(batch), x_t, t)
            fake = predict_x0(field(self.critic.transformer, batch), x_t, t)
        terms = {"matching": matching_loss(x0, real, fake, batch.known)}
        if self.recipe.adversarial:
            terms["adversarial"] = generator_loss(self.realness(x_t, t, batch))
        return {"loss": terms["matching"] + self.recipe.adversarial * terms.get("adversarial", 0), **terms}

    def critic_terms(self, x0: Tensor, noise: Tensor, t: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The head's term has weight 1, whatever the weight of the student's adversarial term."""
        terms = {"critic": flow_loss(field(self.critic.transformer, batch), x0, noise, t, batch.known)}
        if self.recipe.adversarial:
            made = self.realness(interpolate(x0, noise, t), t, batch)
            true = self.realness(interpolate(batch.latents, noise, t), t, batch)
            terms["discriminator"] = discriminator_loss(made, true)
        return {"loss": sum(terms.values(), torch.zeros(())), **terms}

    def optimizers(self, lr: float) -> list[torch.optim.Optimizer]:
        """Without momentum, as both chase a moving target. The critic is the faster of the two."""
        return [
            torch.optim.AdamW(part.parameters(), lr=rate, betas=(0.0, 0.999), weight_decay=0.01)
            for part, rate in ((self.student, lr), (self.critic, CRITIC_PACE * lr))
        ]

    def realness(self, noisy: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """Logits (B,), the mean of what the head says about each unknown token of the critic's features."""
        seen = features(self.critic.transformer, batch, noisy, t, ADVERSARY_BLOCK)
        return self.critic.head(seen).mean((1, 2))


def matching_loss(x0: Tensor, real: Tensor, fake: Tensor, known: int) -> Tensor:
    """Half the mean square of `x0 - target` with the target `x0 - g` held fixed, so that d/dx0 is g over the number of
    elements: the loss is made for its gradient, and its value means nothing.

    `g = (fake - real) / mean|x0 - real|`, sample by sample over the unknown frames (DMD, equations 7 and 8): the
    difference of the two denoised estimates is that of the scores, times t^2 / (1 - t).
    """
    x0, real, fake = (clip[:, :, known:] for clip in (x0, real, fake))
    scale = (x0.detach() - real).abs().mean((1, 2, 3, 4), keepdim=True).clamp(min=1e-6)
    target = x0.detach() - (fake - real) / scale
    return 0.5 * F.mse_loss(x0, target)


def generator_loss(made: Tensor) -> Tensor:
    """Of the logits (B,) that the head gives to the student's clips: they want to be called true (DMD2, equation 4)."""
    return F.softplus(-made).mean()


def discriminator_loss(made: Tensor, true: Tensor) -> Tensor:
    """Of the logits (B,) of the student's and of true clips: the other half of DMD2's equation 4."""
    return F.softplus(made).mean() + F.softplus(-true).mean()


def flow_loss(of: Field, x0: Tensor, noise: Tensor, t: Tensor, known: int) -> Tensor:
    """Flow matching on unknown frames (arXiv 2210.02747): the velocity is `eps - x0`."""
    error = of(interpolate(x0, noise, t), t) - (noise - x0)
    return error[:, :, known:].square().mean()


def score_times(count: int, shift: float, generator: torch.Generator) -> Tensor:
    """Times (count,), uniform, shifted, and kept away from both ends."""
    return shift_time(torch.rand(count, generator=generator), shift).clamp(*TIME_RANGE)
