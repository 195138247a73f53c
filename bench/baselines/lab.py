"""Our pipeline at the lab scale, through the same door as everybody's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np

from bench import hardware
from bench.baselines.reference import scenes_of
from bench.records import MASKED
from bench.systems import LATER, Facts, Output, Request, Stages, to_uint8
from magic141 import arguments, sparsify, weights

PASS_FLOPS = 1.63e9
"""What a plan takes one pass of one clip through the transformer to cost, image to video."""
CLIP_FLOPS = 6e9
"""The same for what a clip costs besides: conditions, VAE, its scores."""
EFFICIENCY = 0.6
"""Share of the speed of a large matrix product that all of it reaches."""
BF16_SPEEDUP = 3.0
"""Of the transformer in bf16 where `hardware.auto_precision` chooses it, over float32 there."""
NO_FIRST_FRAME = "`task: image to video` needs prompts of the lab world: `prompts: {split: …}`"


@dataclass
class Lab:
    """`Magic141Pipeline` with knobs as its arguments.

    `task`: "text to video" runs both halves, each with `num_inference_steps` steps; "image to video" starts from
    the true first frame of the prompt's scene, and so needs prompts of the lab world; "text to video at once" draws no
    picture first. `precision` is that of
    transformer and text encoder, and `auto` what the machine is good for; the VAE stays in fp32, because a bf16
    pixel is wrong by up to a grey level. The steps' arithmetic is fp32 always. `solver` makes them
    (`magic141.solvers`), by default the one that came with the model. `sparsity` is what
    `magic141.sparsify.parse` reads, and is done to the transformer after loading, without recovery: a checkpoint that
    was pruned and trained again is a `model` of its own. `criterion` says which parts go; all but
    "magnitude" are looked up on a few training scenes, to which what "structured" leaves is then refitted.
    """

    model: str = "lab"
    task: Literal["text to video", "image to video", "text to video at once"] = "text to video"
    num_inference_steps: int = 28
    guidance_scale: float = 2.0
    image_guidance_scale: float | None = None
    shift: float | None = None
    num_frames: int = 33
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    batch_size: int = 1
    sparsity: str = "none"
    criterion: Literal["magnitude", "activation", "taylor"] = "magnitude"
    solver: Literal["euler", "unipc"] | None = field(default=None, metadata={LATER: True})

    imports: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "magic141.pipeline", "magic141.data.render")
    fps: ClassVar[int] = 16

    def __post_init__(self) -> None:
        if self.precision == "auto":
            self.precision = hardware.auto_precision()
        arguments.check_num_inference_steps(self.num_inference_steps)
        arguments.check_guidance_scale(self.guidance_scale)
        if self.image_guidance_scale is not None:
            arguments.check_guidance_scale(self.image_guidance_scale, "image_guidance_scale")
        arguments.check_shift(self.shift)
        self._check_length()
        self._ways = sparsify.parse(self.sparsity, self.criterion, refit=self.criterion != "magnitude")

    def _check_length(self) -> None:
        arguments.check_num_frames(self.num_frames)

    def weights(self) -> str | None:
        return fingerprint(self.model, os.environ.get(weights.DIRECTORY_VARIABLE))

    def seconds_per_clip(self) -> float:
        passes = self.num_inference_steps * (2 if self.guidance_scale != 1 else 1)
        halves = 1.28 if self.task == "text to video" else 1.0
        speedup = BF16_SPEEDUP if self.precision == "bf16" else 1.0
        for way in self._ways:
            speedup /= 1 - way.ratio * (way.kind in sparsify.PRUNED)
        flops = CLIP_FLOPS + PASS_FLOPS * passes * halves / speedup
        return flops / (EFFICIENCY * hardware.matrix_flops())

    def load(self) -> None:
        import torch

        from magic141.pipeline import Magic141Pipeline
        from magic141.solvers import with_solver

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        pipeline = Magic141Pipeline.from_pretrained(self.model).to(device)
        pipeline.transformer.to(dtype)
        pipeline.text_encoder.to(dtype)
        pipeline.set_progress_bar_config(disable=True)
        if self.solver is not None:
            pipeline.scheduler = with_solver(self.solver, pipeline.scheduler)
        self._pipeline = sparsify.apply(pipeline, *self._ways, calibration=self._calibration(pipeline))

    def _calibration(self, pipeline: Any) -> sparsify.Calibration:
        if not sparsify.need_calibration(self._ways):
            return ()
        from magic141.train import calibrate

        return calibrate.losses(pipeline, self.num_inference_steps)

    def facts(self) -> Facts:
        from magic141.sparsify.memory import parameter_bytes

        masked = any(way.kind in ("unstructured", "n:m") and way.ratio for way in self._ways)
        return Facts(parameter_bytes(self._pipeline.transformer), (MASKED,) if masked else ())

    def generate(self, requests: Sequence[Request], stages: Stages) -> Output:
        import torch

        images = self._images(requests) if self.task == "image to video" else None
        self._pipeline.stage_hook = stages
        # One generator a clip: a clip does not depend on its batch.
        output = self._pipeline(
            prompt=[request.prompt for request in requests],
            image=None if images is None else list(images),
            num_frames=self.num_frames,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            image_guidance_scale=self.image_guidance_scale,
            shift=self.shift,
            factorised=self.task != "text to video at once",
            generator=[torch.Generator().manual_seed(request.seed) for request in requests],
            output_type="np",
        )
        # A picture that was drawn is no `first_frames`: it is handed over as a latent, so frame 0 is that picture.
        return Output(to_uint8(output.frames), images)

    @staticmethod
    def _images(requests: Sequence[Request]) -> np.ndarray[Any, Any]:
        """True first frames, uint8 (N, H, W, 3)."""
        from magic141.data.render import render

        return render(scenes_of(requests, NO_FIRST_FRAME), 1)[:, 0].numpy()


@cache
def fingerprint(model: str, own_directory: str | None) -> str:
    """Once a plan, and not once a cell: a grid has hundreds. `own_directory` is where `resolve` may look."""
    return weights.fingerprint(weights.resolve(model))
