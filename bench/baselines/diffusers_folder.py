"""Any text-to-video pipeline that diffusers can load from a folder: a system without a line of code."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from bench import hardware
from bench.errors import UnsupportedError
from bench.systems import Output, Request, Stages, to_uint8
from magic141 import weights
from magic141.errors import WeightsMissing
from magic141.stages import DENOISE, TEXT_ENCODE, VAE_DECODE

_ARGUMENTS = ("num_frames", "height", "width", "num_inference_steps", "guidance_scale")


@dataclass
class DiffusersFolder:
    """`DiffusionPipeline.from_pretrained(model)`, called with the knobs that are set; the others keep the pipeline's
    own defaults. `fps` is what the clips are made for, which a folder does not say.
    """

    model: str = ""
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    batch_size: int = 1
    fps: int = 16

    imports: ClassVar[tuple[str, ...]] = ("torch", "diffusers")

    def __post_init__(self) -> None:
        if self.precision == "auto":
            self.precision = hardware.auto_precision()

    def weights(self) -> str | None:
        """Hash of every file's name and content. Raises WeightsMissing where `model` is no whole diffusers folder."""
        return weights.fingerprint(self._folder())

    def seconds_per_clip(self) -> float:
        return 10.0

    def load(self) -> None:
        import torch
        from diffusers import DiffusionPipeline

        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        pipeline = DiffusionPipeline.from_pretrained(self._folder(), dtype=dtype)
        pipeline.set_progress_bar_config(disable=True)
        self._pipeline = pipeline.to("cuda" if torch.cuda.is_available() else "cpu")

    def generate(self, requests: Sequence[Request], stages: Stages) -> Output:
        import torch

        wanted = {name: getattr(self, name) for name in _ARGUMENTS if getattr(self, name) is not None}
        known = inspect.signature(self._pipeline.__call__).parameters
        if unknown := sorted(wanted.keys() - known.keys()):
            raise UnsupportedError(
                f"{type(self._pipeline).__name__} takes no {', '.join(unknown)}: drop that knob"
            )
        with _marked(self._pipeline, stages):
            # One generator a clip: a clip does not depend on its batch.
            output = self._pipeline(
                prompt=[request.prompt for request in requests],
                generator=[torch.Generator().manual_seed(request.seed) for request in requests],
                output_type="np",
                **wanted,
            )
        frames = np.stack([np.asarray(clip) for clip in output.frames])
        return Output(to_uint8(frames))

    def _folder(self) -> Path:
        folder = Path(self.model)
        lacks = weights.incomplete(folder) if self.model else weights.INDEX
        if lacks:
            raise WeightsMissing(
                f"model={self.model!r} is no diffusers folder: it has no {lacks}. Save a pipeline there with "
                "`save_pretrained`, or download a snapshot"
            )
        return folder


@contextmanager
def _marked(pipeline: Any, stages: Stages) -> Iterator[None]:
    """Inside, stages of the pipeline are marked: its text encoding, each step (first pass to scheduler), its VAE."""
    # Some have two, one for each range of noise.
    denoisers = [getattr(pipeline, name, None) for name in ("transformer", "transformer_2", "unet")]
    step: list[Any] = []

    def begin(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not step:  # guidance may pass twice before the scheduler steps
                step.append(stages(DENOISE))
                step[0].__enter__()
            return function(*args, **kwargs)

        return call

    def end(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if step:
                step.pop().__exit__(None, None, None)
            return result

        return call

    def whole(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(function)
            def call(*args: Any, **kwargs: Any) -> Any:
                with stages(name):
                    return function(*args, **kwargs)

            return call

        return wrap

    places = [
        (pipeline, "encode_prompt", whole(TEXT_ENCODE)),
        *((denoiser, "forward", begin) for denoiser in denoisers if denoiser is not None),
        (pipeline.scheduler, "step", end),
        (pipeline.vae, "decode", whole(VAE_DECODE)),
    ]
    places = [(owner, name, wrap) for owner, name, wrap in places if hasattr(owner, name)]
    for owner, name, wrap in places:
        vars(owner)[name] = wrap(getattr(owner, name))
    try:
        yield
    finally:
        for owner, name, _ in places:
            del vars(owner)[name]
