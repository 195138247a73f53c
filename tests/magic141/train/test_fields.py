import dataclasses

import pytest
import torch

from magic141.train.fields import backward_simulation, euler, features, field, guided, predict_x0, step_times
from magic141.train.flow import Batch
from magic141.transformer import Magic141Transformer3DModel

SHAPE = (3, 16, 3, 4, 4)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    model = Magic141Transformer3DModel(
        in_channels=33, num_attention_heads=2, attention_head_dim=16, num_layers=1, num_single_layers=2,
        num_refiner_layers=1, text_embed_dim=8, pooled_projection_dim=8, rope_axes_dim=(4, 6, 6),
        image_condition_type="latent_concat", continuation_embed=True,
    )  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model.double()


@pytest.fixture
def batch():
    g = gen(1)
    return Batch(
        latents=torch.randn(SHAPE, generator=g, dtype=torch.float64),
        known=1,
        continuation=torch.zeros(3, dtype=torch.bool),
        text_tokens=torch.randn(3, 5, 8, generator=g, dtype=torch.float64),
        pooled=torch.randn(3, 8, generator=g, dtype=torch.float64),
        image_tokens=torch.randn(3, 4, 8, generator=g, dtype=torch.float64),
        cover=torch.zeros(3, 3, 16, 16),
    )


@pytest.fixture
def empty():
    g = gen(2)
    return torch.randn(1, 5, 8, generator=g).double(), torch.randn(1, 8, generator=g).double()


def noisy(seed=3):
    return torch.randn(SHAPE, generator=gen(seed), dtype=torch.float64)


def test_given_frames_are_reached_exactly_from_any_noise(transformer, batch):
    t = torch.tensor([0.2, 0.7, 1.0]).double()
    x0 = predict_x0(field(transformer, batch), noisy(), t)
    torch.testing.assert_close(x0[:, :, :1], batch.latents[:, :, :1])


def test_the_answer_does_not_depend_on_frames_that_are_not_given(transformer, batch):
    """The batch holds whole clips; a student that saw the rest would learn to copy it."""
    t = torch.full((3,), 0.5).double()
    other = dataclasses.replace(batch, latents=batch.latents.clone())
    other.latents[:, :, 1:] += 1
    torch.testing.assert_close(field(transformer, batch)(noisy(), t), field(transformer, other)(noisy(), t))


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_is_the_line_through_both_answers(transformer, batch, empty, scale):
    t = torch.tensor([0.2, 0.7, 1.0]).double()
    without = dataclasses.replace(
        batch, text_tokens=empty[0].expand(3, -1, -1), pooled=empty[1].expand(3, -1)
    )
    u, c = field(transformer, without)(noisy(), t), field(transformer, batch)(noisy(), t)
    torch.testing.assert_close(guided(transformer, batch, empty, scale)(noisy(), t), u + scale * (c - u))


def test_the_empty_text_is_as_long_as_the_captions_are(transformer, batch, empty):
    longer = (torch.cat([empty[0]] * 2, dim=1), empty[1])
    t = torch.tensor([0.2, 0.7, 1.0]).double()
    found, expected = (guided(transformer, batch, text, 2.0)(noisy(), t) for text in (longer, empty))
    torch.testing.assert_close(found, expected)


def test_features_are_of_unknown_frames_alone(transformer, batch):
    found = features(transformer, batch, noisy(), torch.full((3,), 0.5).double(), 2)
    assert found.shape == (3, 2 * 4, 32)


def test_times_of_few_steps_are_those_of_the_scheduler():
    from magic141.scheduler import FlowMatchScheduler

    scheduler = FlowMatchScheduler()
    scheduler.set_timesteps(4, shift=3.0)
    torch.testing.assert_close(step_times(4, 3.0), scheduler.sigmas)


def test_simulation_takes_the_steps_of_the_few_step_sampler(transformer, batch):
    """The same noise in the same order, so training sees exactly what inference makes."""
    from magic141.scheduler import FewStepScheduler

    times = step_times(4, 3.0).double()
    of, noise = field(transformer, batch), noisy()
    scheduler, x = FewStepScheduler(), noise
    scheduler.set_timesteps(4, shift=3.0)
    drawn = gen(7)
    for i in range(2):
        v = of(x, times[i].expand(3)).detach()
        x = scheduler.step(v, scheduler.timesteps[i], x, drawn).prev_sample
    found, t = backward_simulation(of, noise, times, 2, gen(7))
    torch.testing.assert_close(found, x, atol=1e-6, rtol=0)
    assert (t == times[2]).all()
    assert not found.requires_grad


def test_euler_ends_on_data_for_a_straight_flow():
    x0, noise = noisy(1), noisy(2)
    states = euler(lambda x, t: noise - x0, noise, step_times(5, 2.0).double())
    assert len(states) == 6
    torch.testing.assert_close(states[-1], x0)
