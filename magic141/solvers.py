"""Other solvers in the scheduler's place: those of diffusers that know flow matching, beside ours.

A pipeline takes any of them, as diffusers' do: `pipe.scheduler = with_solver("unipc", pipe.scheduler)`.
"""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from diffusers import UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from magic141.errors import InputError
from magic141.scheduler import FlowMatchScheduler, Generators, shift_time

Solver = Literal["euler", "unipc"]
"""`euler`: of first order. `unipc`: of second order, for the same passes (Zhao et al., arXiv 2302.04867)."""


def with_solver(name: Solver, scheduler: SchedulerMixin) -> SchedulerMixin:
    """A solver with the shift and the guidance that `scheduler` has. Raises InputError for an unknown name."""
    if name not in get_args(Solver):
        raise InputError(f"solver={name!r} is unknown; use one of {', '.join(get_args(Solver))}")
    kept = {"num_train_timesteps": scheduler.config.num_train_timesteps}
    shift, guidance = own_shift(scheduler), own_guidance(scheduler)
    if name == "euler":
        return FlowMatchScheduler(**kept, shift=shift, guidance_scale=guidance)
    found = UniPCMultistepScheduler(
        **kept, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    found.register_to_config(guidance_scale=guidance)
    return found


def own_shift(scheduler: SchedulerMixin) -> float:
    """The shift of its times, unless it is asked for another."""
    # `set_shift` leaves the configuration alone.
    if isinstance(getattr(type(scheduler), "shift", None), property):
        return float(scheduler.shift)
    # A configuration that came from another scheduler's may have its word for it, unused.
    taken = inspect.signature(type(scheduler).__init__).parameters
    return float(scheduler.config.get("flow_shift" if "flow_shift" in taken else "shift", 1.0))


def own_guidance(scheduler: SchedulerMixin) -> float:
    """The guidance that suits the weights beside it. A scheduler that came without a word of it gets that of ours."""
    return float(scheduler.config.get("guidance_scale", FlowMatchScheduler().config.guidance_scale))


def check_solver(scheduler: SchedulerMixin) -> None:
    """Raises InputError for a scheduler that does not solve the equation of flow matching at times of our choice."""
    if isinstance(scheduler, FlowMatchScheduler):
        return
    config: Any = scheduler.config
    flows = config.get("use_flow_sigmas", True) and (
        config.get("prediction_type", "flow_prediction") == "flow_prediction"
    )
    takes_times = "sigmas" in inspect.signature(scheduler.set_timesteps).parameters
    fits = flows and takes_times and not config.get("use_dynamic_shifting", False)
    if not (fits and _falls_from_1_to_0(scheduler)):
        raise InputError(
            f"{type(scheduler).__name__} does not fit a model of flow matching as it is configured; use "
            "magic141.solvers.with_solver('unipc', pipe.scheduler)"
        )


def _falls_from_1_to_0(scheduler: Any) -> bool:
    """Whether the times that it lays out do; options such as Karras' are for other noise than that of flows."""
    steps, trial = 8, copy.deepcopy(scheduler)
    try:
        Times(steps).begin(trial)
    except (TypeError, ValueError, AttributeError, IndexError):
        return False
    sigmas = torch.as_tensor(trial.sigmas, dtype=torch.float64)
    falls = bool((sigmas.diff() < 0).all()) and len(sigmas) == len(trial.timesteps) + 1 == steps + 1
    return falls and abs(float(sigmas[0]) - 1) < 1e-2 and float(sigmas[-1]) == 0


@dataclass(frozen=True)
class Times:
    """The times at which a sample is denoised: 1 to 0 in so many steps, shifted; by None as the scheduler has it."""

    num_inference_steps: int
    shift: float | None = None

    def begin(self, scheduler: Any, device: torch.device | str | None = None) -> None:
        """Lay them out on `scheduler`. A solver of many steps forgets the sample before."""
        if isinstance(scheduler, FlowMatchScheduler):
            scheduler.set_timesteps(self.num_inference_steps, device, self.shift)
            return
        evenly = torch.linspace(1, 0, self.num_inference_steps + 1, dtype=torch.float64)[:-1]
        # It will add its own shift to these, and shifts multiply.
        given = 1.0 if self.shift is None else self.shift / own_shift(scheduler)
        scheduler.set_timesteps(sigmas=shift_time(evenly, given).numpy(), device=device)


def stepper(scheduler: Any, generator: Generators = None) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Takes velocity, timestep and sample to the sample at the next time. Only some schedulers draw noise, and take a
    generator.
    """
    draws = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": generator} if draws else {}

    def step(velocity: Tensor, timestep: Tensor, sample: Tensor) -> Tensor:
        previous: Tensor = scheduler.step(velocity, timestep, sample, **options, return_dict=False)[0]
        return previous

    return step
