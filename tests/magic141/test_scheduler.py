"""The Euler sampler against diffusers', and against flows whose solution is known."""

from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from magic141.errors import InputError
from magic141.scheduler import FewStepScheduler, FlowMatchScheduler, interpolate, shift_time

SHIFTS = st.floats(0.2, 20)
STEPS = st.integers(1, 64)


@given(steps=STEPS, shift=SHIFTS, seed=st.integers(0, 99))
def test_euler_sampler_is_that_of_diffusers(steps: int, shift: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    reference = FlowMatchEulerDiscreteScheduler(shift=shift)
    reference.set_timesteps(sigmas=torch.linspace(1, 0, steps + 1)[:-1].tolist())
    scheduler = FlowMatchScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    torch.testing.assert_close(scheduler.timesteps, reference.timesteps, atol=1e-3, rtol=1e-6)
    torch.testing.assert_close(scheduler.sigmas, reference.sigmas, atol=1e-6, rtol=1e-6)

    ours = theirs = torch.randn(2, 4, 3, generator=generator)
    for t, t_reference in zip(scheduler.timesteps, reference.timesteps, strict=True):
        velocity = torch.randn(2, 4, 3, generator=generator)
        ours = scheduler.step(velocity, t, ours).prev_sample
        theirs = reference.step(velocity, t_reference, theirs).prev_sample
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@given(steps=STEPS, shift=SHIFTS)
def test_straight_flow_reaches_the_data_in_any_number_of_steps(steps: int, shift: float) -> None:
    x0, noise = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scheduler = FlowMatchScheduler()
    scheduler.set_timesteps(steps, shift=shift)
    x = noise
    for t in scheduler.timesteps:
        torch.testing.assert_close(x, scheduler.add_noise(x0, noise, t.expand(3)), atol=1e-5, rtol=0)
        (x,) = scheduler.step(noise - x0, t, x, return_dict=False)
    torch.testing.assert_close(x, x0, atol=1e-6, rtol=0)


@given(shift=SHIFTS)
def test_shift_keeps_the_ends_and_the_order(shift: float) -> None:
    times = shift_time(torch.linspace(0, 1, 101, dtype=torch.float64), shift)
    assert times[0] == 0
    assert times[-1] == pytest.approx(1)
    assert (times.diff() > 0).all()
    torch.testing.assert_close(shift_time(times, 1 / shift), torch.linspace(0, 1, 101, dtype=torch.float64))


def test_interpolation_takes_one_time_per_sample() -> None:
    x0, noise = torch.zeros(3, 2, 2), torch.ones(3, 2, 2)
    mixed = interpolate(x0, noise, torch.tensor([0.0, 0.25, 1.0]))
    assert mixed[:, 0, 0].tolist() == [0.0, 0.25, 1.0]


def test_steps_in_low_precision_keep_the_sample_wide() -> None:
    scheduler = FlowMatchScheduler()
    scheduler.set_timesteps(4)
    sample = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    velocity = sample.bfloat16()
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        assert scheduler.step(velocity, 1000.0, sample.to(dtype)).prev_sample.dtype == dtype
    exact = sample - 0.25 * velocity.float()
    torch.testing.assert_close(scheduler.step(velocity, 1000.0, sample).prev_sample, exact)


def test_one_schedule_serves_several_samples() -> None:
    scheduler = FlowMatchScheduler(shift=3.0)
    scheduler.set_timesteps(4)
    velocity, sample = torch.ones(1), torch.zeros(1)
    first = [scheduler.step(velocity, t, sample).prev_sample for t in scheduler.timesteps]
    again = [scheduler.step(velocity, t, sample).prev_sample for t in reversed(scheduler.timesteps)]
    assert first == again[::-1]


def test_it_is_saved_as_diffusers_saves_schedulers(tmp_path: Path) -> None:
    FlowMatchScheduler(shift=5.0).save_pretrained(tmp_path)
    assert FlowMatchScheduler.from_pretrained(tmp_path).config.shift == 5.0


@pytest.mark.parametrize("steps", [0, -3])
def test_fewer_than_one_step_is_refused(steps: int) -> None:
    with pytest.raises(InputError, match=f"num_inference_steps={steps} must be at least 1"):
        FlowMatchScheduler().set_timesteps(steps)


@pytest.mark.parametrize("shift", [0.0, -1.0, float("nan"), float("inf")])
def test_a_shift_that_is_not_positive_is_refused(shift: float) -> None:
    with pytest.raises(InputError, match="must be positive"):
        FlowMatchScheduler(shift=shift)
    with pytest.raises(InputError, match="must be positive"):
        FlowMatchScheduler().set_timesteps(4, shift=shift)


def test_a_time_outside_the_schedule_is_refused() -> None:
    scheduler = FlowMatchScheduler()
    with pytest.raises(InputError, match="schedule of 0 steps; call set_timesteps"):
        scheduler.step(torch.ones(1), 1000.0, torch.ones(1))
    scheduler.set_timesteps(4)
    with pytest.raises(InputError, match=r"timestep=700.0 is not in the schedule of 4 steps"):
        scheduler.step(torch.ones(1), 700.0, torch.ones(1))


@given(steps=STEPS, shift=SHIFTS, seed=st.integers(0, 99))
def test_few_steps_of_a_perfect_predictor_end_on_the_data(steps: int, shift: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    scheduler = FewStepScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    x = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step((x - x0) / scheduler.sigmas[i].item(), t, x, generator).prev_sample
    torch.testing.assert_close(x, x0, atol=1e-9, rtol=0)


def test_few_steps_noise_the_prediction_afresh() -> None:
    """Between steps the sample is the prediction with noise of the next time, not with that of the last."""
    x0, noise = torch.full((20_000,), 3.0), torch.full((20_000,), 5.0)
    scheduler = FewStepScheduler()
    scheduler.set_timesteps(2)
    x = scheduler.step(
        noise - x0, scheduler.timesteps[0], noise, torch.Generator().manual_seed(0)
    ).prev_sample
    assert x.mean().item() == pytest.approx(1.5, abs=0.02)
    assert x.std().item() == pytest.approx(0.5, abs=0.02)


def test_one_generator_a_sample_makes_samples_independent_of_their_batch() -> None:
    scheduler = FewStepScheduler()
    scheduler.set_timesteps(2)
    sample = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))

    def stepped(rows: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(row) for row in rows]
        return scheduler.step(torch.zeros(len(rows), 4), 1000.0, sample[rows], generators).prev_sample

    torch.testing.assert_close(stepped([0, 1, 2])[1:], stepped([1, 2]))
