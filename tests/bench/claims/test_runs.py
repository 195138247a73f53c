"""What a training sample costs."""

import dataclasses
import itertools

import pytest

from bench.claims import runs


def test_training_costs_what_is_counted():
    """`TRAINING_GFLOP` by PyTorch's counter, on a device that computes nothing."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from magic141.presets import LAB
    from magic141.train.distill import METHODS, Plan
    from magic141.train.flow import Batch
    from magic141.transformer import Magic141Transformer3DModel

    def zeros(*shape, **how):
        return torch.zeros(*shape, device="meta", **how)

    with torch.device("meta"):
        models = [Magic141Transformer3DModel(**dataclasses.asdict(LAB.transformer)) for _ in range(2)]
    step = METHODS["dmd2"](tuple(models), (zeros(1, 40, 128), zeros(1, 128)), Plan(method="dmd2")).to("meta")
    seeds = (0, 5)  # they exit at the first step and at the last, and the mean of both is that of all
    exits = [int(torch.randint(4, (), generator=torch.Generator().manual_seed(seed))) for seed in seeds]
    assert exits == [0, 3]
    shapes = {"image-to-video": (9, 1), "text-to-video": (9, 0), "text-to-image": (1, 0)}
    for task, (frames, known) in shapes.items():
        batch = Batch(
            latents=zeros(1, 16, frames, 8, 8), known=known, continuation=zeros(1, dtype=torch.bool),
            text_tokens=zeros(1, 24, 128), pooled=zeros(1, 128),
            image_tokens=zeros(1, 16, 128) if known else None, cover=zeros(1, frames, 16, 16),
        )  # fmt: skip
        with FlopCounterMode(display=False) as counter:
            for seed, turn in itertools.product(seeds, range(step.turns)):
                step(turn, batch, torch.Generator().manual_seed(seed))["loss"].backward()
        counted = counter.get_total_flops() / (step.turns * len(seeds)) / 1e9
        assert counted == pytest.approx(runs.TRAINING_GFLOP[task], rel=0.02), task
