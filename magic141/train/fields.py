"""Velocity fields with their condition bound: what distillation needs of a model, and nothing else.

A `Field` maps x_t (B, 16, t, h, w) and times (B,) to velocities. Frames that the condition gives are no question:
there a field returns the velocity that leads to them, `(x_t - x0) / t`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from magic141.scheduler import interpolate, shift_time
from magic141.train.flow import Batch, ask, normal
from magic141.transformer import Magic141Transformer3DModel

Field = Callable[[Tensor, Tensor], Tensor]
Text = tuple[Tensor, Tensor]
"""Text tokens (1, 40, 128) and the pooled text (1, 128) of one prompt."""


def field(transformer: Magic141Transformer3DModel, batch: Batch) -> Field:
    """What `transformer` says under the conditions of `batch`."""
    given = batch.latents[:, :, : batch.known]

    def velocity(x_t: Tensor, t: Tensor) -> Tensor:
        v = ask(transformer, batch, given, x_t, t).sample
        known = (x_t[:, :, : batch.known] - given) / t.view(-1, 1, 1, 1, 1)
        return torch.cat([known, v[:, :, batch.known :]], dim=2)

    return velocity


def features(
    transformer: Magic141Transformer3DModel, batch: Batch, x_t: Tensor, t: Tensor, layer: int
) -> Tensor:
    """The tokens of unknown frames (B, N, C) after block `layer`."""
    given = batch.latents[:, :, : batch.known]
    (tokens,) = ask(transformer, batch, given, x_t, t, layer).features
    return tokens[:, batch.known * tokens.shape[1] // x_t.shape[2] :]


def guided(transformer: Magic141Transformer3DModel, batch: Batch, empty: Text, scale: float) -> Field:
    """`uncond + scale (cond - uncond)` in one pass of twice the rows (arXiv 2207.12598).

    The image stays in both halves, as in the pipeline.
    """
    if scale == 1:
        return field(transformer, batch)
    count = len(batch.latents)
    length = batch.text_tokens.shape[1]  # padding changes no token before it, but the transformer sees it
    tokens, pooled = (part.expand(count, *part.shape[1:]) for part in (empty[0][:, :length], empty[1]))
    both = field(
        transformer,
        replace(
            batch,
            latents=torch.cat([batch.latents] * 2),
            continuation=torch.cat([batch.continuation] * 2),
            text_tokens=torch.cat([tokens, batch.text_tokens]),
            pooled=torch.cat([pooled, batch.pooled]),
            image_tokens=None if batch.image_tokens is None else torch.cat([batch.image_tokens] * 2),
        ),
    )

    def velocity(x_t: Tensor, t: Tensor) -> Tensor:
        without, with_text = both(torch.cat([x_t, x_t]), torch.cat([t, t])).chunk(2)
        return torch.lerp(without, with_text, scale)

    return velocity


def predict_x0(of: Field, x_t: Tensor, t: Tensor) -> Tensor:
    """The data that a field leads to in one step, `x0 = x_t - t v`."""
    return x_t - t.view(-1, 1, 1, 1, 1) * of(x_t, t)


def step_times(steps: int, shift: float) -> Tensor:
    """Times (steps + 1,) of a few-step schedule: 1 = first time > … > 0, warped by the shift."""
    return shift_time(torch.linspace(1, 0, steps + 1), shift)


def backward_simulation(
    of: Field, noise: Tensor, times: Tensor, exit_step: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """x_t before step `exit_step` of the few-step sampler, and its time (B,), both without gradient.

    Backward simulation (DMD2, arXiv 2405.14867, section 4.5): a student learns on what its own earlier steps make,
    not on noised data that it will never see.
    """
    x_t, times = noise, times.to(noise.device)
    with torch.no_grad():
        for now, then in itertools.pairwise(times[: exit_step + 1]):
            x0 = predict_x0(of, x_t, now.expand(len(noise)))
            x_t = interpolate(x0, normal(noise, generator), then.expand(len(noise)))
    return x_t, times[exit_step].expand(len(noise))


def euler(of: Field, x_t: Tensor, times: Tensor) -> list[Tensor]:
    """The states at all `times` of Euler's method from `x_t` at the first of them, itself included."""
    states, times = [x_t], times.to(x_t.device)
    with torch.no_grad():
        for now, then in itertools.pairwise(times):
            states.append(states[-1] + (then - now) * of(states[-1], now.expand(len(x_t))))
    return states
