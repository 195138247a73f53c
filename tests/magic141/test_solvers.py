"""Solvers of diffusers in the scheduler's place, against ours and against a flow whose solution is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    LTXEulerAncestralRFScheduler,
    UniPCMultistepScheduler,
)
from hypothesis import given
from hypothesis import strategies as st

from magic141.errors import InputError
from magic141.longvideo import stream
from magic141.pipeline import Magic141Pipeline
from magic141.scheduler import FewStepScheduler, FlowMatchScheduler
from magic141.solvers import Times, own_guidance, own_shift, stepper, with_solver

PROMPT = "a small red ring drifting left over dark stripes"
FLOWING = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


def made(pipe: Magic141Pipeline, **kwargs: Any) -> torch.Tensor:
    defaults = {"prompt": PROMPT, "num_frames": 5, "num_inference_steps": 3, "output_type": "latent"}
    found: torch.Tensor = pipe(**(defaults | {"generator": torch.Generator().manual_seed(0)} | kwargs)).frames
    return found


def solve_gaussian(scheduler: Any, steps: int, shift: float) -> float:
    """Error, at t = 0, of the flow from N(0, 1) to N(2, 0.3^2): its velocity is linear, and x1 ends at 2 + 0.3 x1."""
    mean, deviation = 2.0, 0.3
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 1, 9)
    times, x = Times(steps, shift), noise
    times.begin(scheduler)
    step = stepper(scheduler)
    for i, timestep in enumerate(scheduler.timesteps):
        t = scheduler.sigmas[i].item()
        residual = (x - (1 - t) * mean) / ((1 - t) ** 2 * deviation**2 + t**2)
        velocity = t * residual - (mean + (1 - t) * deviation**2 * residual)
        x = step(velocity, timestep, x)
    return float((x - (mean + deviation * noise)).abs().max())


@given(steps=st.integers(1, 60), shift=st.floats(0.2, 8), own=st.floats(0.2, 8), asked=st.booleans())
def test_all_solvers_are_asked_at_the_same_times(steps: int, shift: float, own: float, asked: bool) -> None:
    times = Times(steps, shift if asked else None)
    ours = FlowMatchScheduler(shift=own)
    times.begin(ours)
    theirs = (
        UniPCMultistepScheduler(**FLOWING, flow_shift=own),
        FlowMatchEulerDiscreteScheduler(shift=own),
        with_solver("unipc", ours),
    )
    for scheduler in theirs:
        times.begin(scheduler)
        torch.testing.assert_close(scheduler.sigmas, ours.sigmas, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_the_second_order_has_less_error_for_as_many_passes(shift: float) -> None:
    euler = FlowMatchScheduler()
    second = with_solver("unipc", euler)
    errors = {steps: solve_gaussian(second, steps, shift) for steps in (4, 12, 48)}
    assert errors[4] > 2 * errors[12] > 8 * errors[48]
    for steps, most in ((4, 1.0), (12, 0.7), (48, 0.1)):
        assert errors[steps] < most * solve_gaussian(euler, steps, shift)
    assert solve_gaussian(second, 4, shift) == errors[4], "it forgets the sample before"


@pytest.mark.parametrize("shift", [None, 2.0])
def test_the_pipeline_with_the_euler_of_diffusers_is_the_pipeline(
    pipe: Magic141Pipeline, shift: float | None
) -> None:
    ours = made(pipe, shift=shift)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=own_shift(pipe.scheduler))
    torch.testing.assert_close(made(pipe, shift=shift), ours, rtol=0, atol=1e-4)


def test_fresh_noise_is_that_of_diffusers(pipe: Magic141Pipeline) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pipe.scheduler = FewStepScheduler(shift=3.0, guidance_scale=1.0)
    ours = made(pipe, image=image, guidance_scale=1.0)
    pipe.scheduler = FlowMatchLCMScheduler(shift=3.0)
    torch.testing.assert_close(made(pipe, image=image, guidance_scale=1.0), ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("arguments", [{}, {"factorised": False}])
def test_a_multistep_solver_serves_a_pipeline(pipe: Magic141Pipeline, arguments: dict[str, Any]) -> None:
    euler = made(pipe, **arguments)
    pipe.scheduler = with_solver("unipc", pipe.scheduler)
    first = made(pipe, **arguments)
    assert torch.equal(made(pipe, **arguments), first)
    assert not torch.equal(first, euler)
    assert first.isfinite().all()


def test_the_halves_of_a_call_do_not_hear_of_each_other(
    pipe: Magic141Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each half makes alone, with a solver that has seen nothing yet, what it made after the other."""
    asked: list[tuple[Any, torch.Tensor]] = []
    denoise = pipe.denoise

    def record(*arguments: Any) -> torch.Tensor:
        asked.append((arguments, denoise(*arguments)))
        return asked[-1][1]

    monkeypatch.setattr(pipe, "denoise", record)
    pipe.scheduler = with_solver("unipc", pipe.scheduler)
    made(pipe)
    assert len(asked) == 2
    for arguments, found in asked:
        pipe.scheduler = with_solver("unipc", pipe.scheduler)
        with torch.no_grad():
            assert torch.equal(denoise(*arguments), found)


def test_known_frames_leave_as_they_came(pipe: Magic141Pipeline) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    euler = made(pipe, image=image)
    pipe.scheduler = with_solver("unipc", pipe.scheduler)
    assert torch.equal(made(pipe, image=image)[:, :, :1], euler[:, :, :1])


def test_windows_of_a_long_video_take_any_solver(pipe: Magic141Pipeline) -> None:
    pipe.scheduler = with_solver("unipc", pipe.scheduler)

    def frames() -> np.ndarray:
        parts = stream(
            pipe, PROMPT, seconds=1, window=9, num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        return np.concatenate(list(parts))

    assert len(frames()) == 16
    np.testing.assert_array_equal(frames(), frames())


def test_guidance_and_shift_move_to_the_other_solver() -> None:
    student = FewStepScheduler(shift=2.5, guidance_scale=1.0)
    for name in ("unipc", "euler"):
        other = with_solver(name, student)
        assert (own_shift(other), own_guidance(other)) == (2.5, 1.0)
        back = with_solver("euler", other)
        assert (own_shift(back), own_guidance(back)) == (2.5, 1.0)
    assert own_guidance(UniPCMultistepScheduler(**FLOWING)) == own_guidance(FlowMatchScheduler())


def test_a_pipeline_is_saved_with_its_solver(pipe: Magic141Pipeline, tmp_path: Path) -> None:
    pipe.scheduler = with_solver("unipc", pipe.scheduler)
    pipe.save_pretrained(tmp_path / "own")
    again = Magic141Pipeline.from_pretrained(tmp_path / "own")
    again.set_progress_bar_config(disable=True)
    assert isinstance(again.scheduler, UniPCMultistepScheduler)
    assert torch.equal(made(again), made(pipe))


def test_diffusers_way_of_replacing_a_scheduler_works(pipe: Magic141Pipeline) -> None:
    ours = with_solver("unipc", pipe.scheduler)
    pipe.scheduler = UniPCMultistepScheduler.from_config(
        pipe.scheduler.config, **FLOWING, flow_shift=own_shift(ours)
    )
    theirs = made(pipe)
    pipe.scheduler = ours
    assert torch.equal(made(pipe), theirs)


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(),
        EulerDiscreteScheduler(),
        UniPCMultistepScheduler(),
        DPMSolverMultistepScheduler(**FLOWING),
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    ],
)
def test_schedulers_that_do_not_fit_are_refused_before_any_work(
    pipe: Magic141Pipeline, monkeypatch: pytest.MonkeyPatch, scheduler: Any
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr(pipe.text_encoder.text_model, "forward", work)
    pipe.scheduler = scheduler
    with pytest.raises(InputError, match=f"{type(scheduler).__name__} does not fit.*with_solver"):
        made(pipe)


def test_an_unknown_solver_is_refused() -> None:
    with pytest.raises(InputError, match="solver='heun' is unknown; use one of euler, unipc"):
        with_solver("heun", FlowMatchScheduler())  # type: ignore[arg-type]


def test_the_shift_is_the_one_that_a_scheduler_has(pipe: Magic141Pipeline) -> None:
    """Not one that its configuration brought along from another's, nor the one from before `set_shift`."""
    unipc = with_solver("unipc", FlowMatchScheduler(shift=3.0))
    euler = FlowMatchEulerDiscreteScheduler.from_config(unipc.config)
    assert own_shift(euler) == euler.shift == 1.0
    euler.set_shift(5)
    assert own_shift(euler) == 5.0
    asked = FlowMatchScheduler()
    for times in (Times(8, 3.0), Times(8, 5.0)):
        times.begin(euler)
        times.begin(asked)
        torch.testing.assert_close(euler.sigmas, asked.sigmas, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "scheduler",
    [
        UniPCMultistepScheduler(**FLOWING, use_exponential_sigmas=True),
        UniPCMultistepScheduler(**FLOWING, use_beta_sigmas=True),
        UniPCMultistepScheduler(**FLOWING, use_karras_sigmas=True),
        FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        LTXEulerAncestralRFScheduler(),
    ],
    ids=["exponential", "beta", "karras", "inverted", "wants a list"],
)
def test_times_that_do_not_fall_from_1_to_0_are_refused(pipe: Magic141Pipeline, scheduler: Any) -> None:
    pipe.scheduler = scheduler
    with pytest.raises(InputError, match="does not fit a model of flow matching"):
        made(pipe)


@pytest.mark.parametrize("option", ["use_karras_sigmas", "use_exponential_sigmas", "stochastic_sampling"])
def test_options_that_keep_the_times_of_a_flow_are_taken(pipe: Magic141Pipeline, option: str) -> None:
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(**{option: True})
    assert made(pipe).isfinite().all()
