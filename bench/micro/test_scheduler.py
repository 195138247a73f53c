"""One step of either sampler over the latents of a clip: what a step costs besides the network."""

import pytest
import torch

from bench.micro.conftest import Timed
from magic141.presets import LAB
from magic141.scheduler import FewStepScheduler, FlowMatchScheduler


@pytest.mark.parametrize("kind", [FlowMatchScheduler, FewStepScheduler])
def test_scheduler_step(priced: Timed, kind: type[FlowMatchScheduler]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, *LAB.video.latent_shape, generator=generator)
    velocity = torch.randn(x.shape, generator=generator)
    scheduler = kind()
    scheduler.set_timesteps(28)
    time = scheduler.timesteps[3]
    priced(
        lambda: scheduler.step(velocity, time, x, generator),
        200,
        tokens=x.numel() // LAB.video.latent_channels,
        bytes=3 * x.nbytes,
        flops=2 * x.numel(),
    )
