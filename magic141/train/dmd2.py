"""Methods `dmd` and `dmd2`: a student of a few steps whose clips are distributed as the teacher's.

Improved Distribution Matching Distillation (Yin et al. 2024, arXiv 2405.14867, "DMD2"). Three models: the student
that generates; the teacher, whose score is that of real data; the critic, whose score is that of the student's clips,
learned as the student changes. Two losses for the student,

    matching      x moves along  s_real(x_t) - s_fake(x_t)            (DMD, arXiv 2311.18828, equation 7)
    adversarial   softplus(-D(x_t))                                   (DMD2, equation 4)

and two for the critic: flow matching on the student's clips (DMD, equation 6, of velocities), and telling them from
real ones, both noised (the other half of DMD2's equation 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magic141.scheduler import interpolate, shift_time
from magic141.train.fields import Field, Text, data, features, field, guided, simulate, step_times
from magic141.train.flow import Batch, normal
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


class Dmd2(nn.Module):
    """Student and critic, trained in turns; `teacher` stays as it is. `empty`: the text without words."""

    def __init__(
        self,
        student: Magic141Transformer3DModel,
        critic: Critic,
        teacher: Magic141Transformer3DModel,
        empty: Text,
        recipe: Recipe,
    ) -> None:
        super().__init__()
        self.student, self.critic = student, critic
        self.recipe, self.empty = recipe, empty
        self.turns = recipe.critic_updates + 1
        self.times = step_times(recipe.num_inference_steps, recipe.shift)
        # In a tuple: no part of what is trained or saved.
        self._teacher = (teacher.requires_grad_(False).eval(),)

    def forward(self, step: int, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Loss terms of update `step`: of the critic, or every so often of the student."""
        students_turn = step % self.turns == self.turns - 1
        self.critic.requires_grad_(not students_turn)

        # The student generates: some of its steps without gradient, the last with (on its own turn).
        student = field(self.student, batch)
        exit_step = int(torch.randint(self.recipe.num_inference_steps, (), generator=generator))
        x_t, t = simulate(student, normal(batch.latents, generator), self.times, exit_step, generator)
        with torch.set_grad_enabled(students_turn):
            x0 = data(student, x_t, t)

        t = score_times(len(x0), self.recipe.shift, generator).to(x0.device)
        noise = normal(x0, generator)
        noisy = interpolate(x0, noise, t)
        if students_turn:
            with torch.no_grad():
                real = data(guided(self._teacher[0], batch, self.empty, self.recipe.guidance_scale), noisy, t)
                fake = data(field(self.critic.transformer, batch), noisy, t)
            terms = {"matching": matching_loss(x0, real, fake, batch.known)}
            if self.recipe.adversarial:
                terms["adversarial"] = F.softplus(-self.realness(noisy, t, batch)).mean()
                return {"loss": terms["matching"] + self.recipe.adversarial * terms["adversarial"], **terms}
            return {"loss": terms["matching"], **terms}

        terms = {"critic": flow_loss(field(self.critic.transformer, batch), x0, noise, t, batch.known)}
        if self.recipe.adversarial:
            true = self.realness(interpolate(batch.latents, noise, t), t, batch)
            terms["telling"] = F.softplus(self.realness(noisy, t, batch)).mean() + F.softplus(-true).mean()
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
    """Half the square of `x0 - (x0 - g)` with g held fixed, so that its gradient is g (a mean over elements).

    `g = (fake - real) / mean|x0 - real|`, sample by sample over the unknown frames (DMD, equations 7 and 8): the
    difference of the two denoised estimates is that of the scores, times t^2 / (1 - t).
    """
    x0, real, fake = (clip[:, :, known:] for clip in (x0, real, fake))
    scale = (x0.detach() - real).abs().mean((1, 2, 3, 4), keepdim=True).clamp(min=1e-6)
    target = x0.detach() - (fake - real) / scale
    return 0.5 * F.mse_loss(x0, target)


def flow_loss(of: Field, x0: Tensor, noise: Tensor, t: Tensor, known: int) -> Tensor:
    """Flow matching on unknown frames (arXiv 2210.02747): the velocity is `eps - x0`."""
    error = of(interpolate(x0, noise, t), t) - (noise - x0)
    return error[:, :, known:].square().mean()


def score_times(count: int, shift: float, generator: torch.Generator) -> Tensor:
    """Times (count,), uniform, shifted, and kept away from both ends."""
    return shift_time(torch.rand(count, generator=generator), shift).clamp(*TIME_RANGE)
