"""Flow matching: times, noising, the Euler step, and the step of few-step students.

A noisy sample is `x_t = (1 - t) x0 + t eps`, the model predicts the velocity `v = eps - x0`, and t runs from 1
(noise) to 0 (data); Lipman et al., arXiv 2210.02747. Models and `timesteps` count in 1000 t, as diffusers does.
"""

import math
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from magic141.errors import InputError

Generators = torch.Generator | list[torch.Generator] | None


def shift_time(t: Tensor, shift: float) -> Tensor:
    """Spend more of the schedule at high noise: `s t / (1 + (s - 1) t)`, arXiv 2403.03206, section 5.3.2."""
    return shift * t / (1 + (shift - 1) * t)


def interpolate(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Noisy sample `(1 - t) x0 + t eps`.

    Args:
        x0: clean latents (B, ...).
        noise: standard normal, shape of x0.
        t: (B,) times in [0, 1].
    """
    t = t.to(x0.dtype).reshape(-1, *(1,) * (x0.dim() - 1))
    return torch.lerp(x0, noise, t)


@dataclass
class FlowMatchSchedulerOutput(BaseOutput):
    """`prev_sample`: the sample at the next, lower time, in the shape and dtype of the sample given."""

    prev_sample: Tensor


class FlowMatchScheduler(SchedulerMixin, ConfigMixin):
    """Euler's method on the flow's ordinary differential equation, `x <- x + (t_next - t) v`.

    It keeps no count of steps: `step` reads the place in the schedule off `timestep`, so one scheduler can serve
    several samples in turn.

    Args:
        num_train_timesteps: model time at t = 1.
        shift: of the schedule, unless `set_timesteps` is given another.
        guidance_scale: that suits the weights beside it, unless a call gives another; 1 where they hold it.
    """

    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self, num_train_timesteps: int = 1000, shift: float = 1.0, guidance_scale: float = 2.0
    ) -> None:
        _check_shift(shift)
        self.timesteps = torch.empty(0)
        self.sigmas = torch.zeros(1)

    def set_timesteps(
        self,
        num_inference_steps: int,
        device: torch.device | str | None = None,
        shift: float | None = None,
    ) -> None:
        """Lay out `timesteps` (steps,) on `device`, and `sigmas` (steps + 1,), the times t with the final 0.

        Raises:
            InputError: fewer than 1 step, or a shift that is not positive.
        """
        if num_inference_steps < 1:
            raise InputError(f"num_inference_steps={num_inference_steps} must be at least 1; try 4 to 56")
        shift = self.config.shift if shift is None else shift
        _check_shift(shift)
        times = torch.linspace(1, 0, num_inference_steps + 1, dtype=torch.float64)
        self.sigmas = shift_time(times, shift).float()
        self.timesteps = (self.sigmas[:-1] * self.config.num_train_timesteps).to(device)

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> FlowMatchSchedulerOutput | tuple[Tensor]:
        """One step from `timestep`, one of `timesteps`, to the next lower time.

        Args:
            model_output: velocity at `sample`, same shape.
            timestep: scalar.
            sample: x_t, (B, ...).
            generator: of fresh noise, one or one a sample; Euler's method draws none.
            return_dict: False gives a tuple.

        Raises:
            InputError: `timestep` is not in the schedule.
        """
        time = float(timestep)
        gaps = (self.sigmas[:-1] * self.config.num_train_timesteps - time).abs()
        if not len(gaps) or gaps.min() > 1e-3:
            raise InputError(
                f"timestep={time} is not in the schedule of {len(gaps)} steps; "
                "call set_timesteps, then pass its timesteps one after the other"
            )
        i = int(gaps.argmin())
        wide = sample.to(torch.promote_types(sample.dtype, torch.float32))
        now, then = (sigma.item() for sigma in self.sigmas[i : i + 2])
        previous = self._move(wide, model_output, now, then, generator)
        if not return_dict:
            return (previous.to(sample.dtype),)
        return FlowMatchSchedulerOutput(prev_sample=previous.to(sample.dtype))

    def _move(self, x: Tensor, velocity: Tensor, now: float, then: float, generator: Generators) -> Tensor:
        return x + (then - now) * velocity

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """`interpolate` with times (B,) counted as the model does, in [0, num_train_timesteps]."""
        return interpolate(original_samples, noise, timesteps / self.config.num_train_timesteps)


class FewStepScheduler(FlowMatchScheduler):
    """Each step predicts the data, `x0 = x_t - t v`, and noises it afresh to the next time.

    The sampler of students whose every step was trained to land on data: multistep consistency sampling
    (arXiv 2303.01469, algorithm 1), and DMD2's (arXiv 2405.14867, section 4.4). On a model that knows x0 it differs
    from Euler's method by the noise alone; on others a step's error in x0 reaches the next one noised afresh, where
    Euler's method carries it on as it is.
    """

    def _move(self, x: Tensor, velocity: Tensor, now: float, then: float, generator: Generators) -> Tensor:
        x0 = x - now * velocity
        if then == 0:
            return x0
        return torch.lerp(x0, randn_tensor(x.shape, generator, x.device, x.dtype), then)


def _check_shift(shift: float) -> None:
    if not (shift > 0 and math.isfinite(shift)):
        raise InputError(f"shift={shift} must be positive; 1 means none, the 13B model uses 5")
