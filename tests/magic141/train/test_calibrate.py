"""Calibration of importance: deterministic losses, on batches that are given or on scenes of the lab world."""

import pytest
import torch

from magic141.autoencoder import AutoencoderMagic141
from magic141.conditioning import make_text_image_model, make_tokenizer
from magic141.pipeline import Magic141Pipeline
from magic141.scheduler import FewStepScheduler, FlowMatchScheduler
from magic141.sparsify import Sparsity, apply
from magic141.train import calibrate
from magic141.train.flow import Batch


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(seed):
    return Batch(
        latents=torch.randn(4, 16, 2, 4, 4, generator=gen(seed)),
        known=1,
        continuation=torch.zeros(4, dtype=torch.bool),
        text_tokens=torch.randn(4, 5, 128, generator=gen(seed)),
        pooled=torch.randn(4, 128, generator=gen(seed)),
        image_tokens=None,
        cover=torch.zeros(4, 2, 8, 8),
    )


def test_a_student_of_few_steps_is_asked_at_its_own_times():
    t = calibrate.draw_times(400, 3.0, torch.tensor([1.0, 0.9, 0.5]), gen())
    assert {round(value, 4) for value in t.tolist()} == {1.0, 0.9, 0.5}
    t = calibrate.draw_times(400, 3.0, None, gen())
    assert ((t > 0) & (t < 1)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_calibration_is_the_same_at_every_call_and_tells_what_matters(dense, dtype):
    dense.to(dtype)
    losses = calibrate.losses_on([batch(1), batch(2)])
    first, second = ([loss(dense).item() for loss in losses] for _ in range(2))
    assert first == second
    assert first[0] != first[1]
    pruned = apply(dense, Sparsity(kind="structured", ratio=0.5, criterion="taylor"), calibration=losses)
    assert pruned.config.pruned_ratio == 0.5
    assert pruned.dtype == dtype


@pytest.mark.parametrize("scheduler", [FlowMatchScheduler(), FewStepScheduler()])
def test_scenes_of_the_lab_world_calibrate_a_pipeline(dense, scheduler, monkeypatch):
    monkeypatch.setattr(calibrate, "SCENES", 8)
    vae = AutoencoderMagic141(width=16, fine_width=8, encoder_blocks=1, decoder_blocks=1, fine_blocks=1)
    pipe = Magic141Pipeline(dense, vae, make_text_image_model(), make_tokenizer(), scheduler)
    losses = calibrate.losses(pipe, batch_size=2)
    assert len(losses) == calibrate.BATCHES
    values = [loss(dense).item() for loss in losses]
    assert all(0 < value < float("inf") for value in values)
    assert len(set(values)) == len(values)
