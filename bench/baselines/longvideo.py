"""Long video of our pipeline, window by window, and the true one beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from bench.baselines.lab import Lab
from bench.baselines.reference import Truth
from bench.systems import Output, Request, Stages, to_uint8
from magic141 import arguments
from magic141.data.factors import FRAME_SIZE
from magic141.longvideo_plan import Plan


@dataclass
class LongVideo(Lab):
    """`Magic141Pipeline.stream`, whose arguments `window` to `cross_fade` are; the clips of a batch one by one.

    `windows: one` is the control without any: a single pass over all frames, where memory and time allow. The others
    have no meaning then, and must be left alone. Frames go to an array outside torch as they come, as a file would
    take them, so that peak tensor bytes are those of the windows.
    """

    seconds: float = 60.0
    windows: Literal["sliding", "one"] = "sliding"
    window: int = 33
    overlap: int = 1
    chaining: Literal["latent", "frame"] = "latent"
    anchor: bool | None = None
    history_noise: float = 0.0
    match_statistics: bool = False
    cross_fade: int = 0
    num_frames: int = field(init=False)

    def _check_length(self) -> None:
        self._plan = Plan(self.seconds, self.window, self.overlap)
        self.num_frames = self._plan.frames
        arguments.check_cross_fade(self.cross_fade, self.overlap)
        arguments.check_history_noise(self.history_noise)
        arguments.check_chaining(self.chaining, self.overlap)
        if self.anchor is None:
            self.anchor = self.chaining == "latent"

    def seconds_per_clip(self) -> float:
        return super().seconds_per_clip() * len(self._plan.starts) * self.window / 33

    def generate(self, requests: Sequence[Request], stages: Stages) -> Output:
        images = self._images(requests) if self.task == "image to video" else None
        frames = np.empty((len(requests), self.num_frames, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
        self._pipeline.stage_hook = stages
        make = self._whole if self.windows == "one" else self._slide
        for place, request in enumerate(requests):
            make(request, None if images is None else images[place], frames[place])
        starts = () if self.windows == "one" else tuple(self._plan.starts)
        return Output(frames, images, starts)

    def _slide(self, request: Request, image: np.ndarray | None, into: np.ndarray) -> None:
        import torch

        at = 0
        for part in self._pipeline.stream(
            request.prompt,
            image,
            seconds=self.seconds,
            window=self.window,
            overlap=self.overlap,
            chaining=self.chaining,
            anchor=self.anchor,
            history_noise=self.history_noise,
            match_statistics=self.match_statistics,
            cross_fade=self.cross_fade,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            image_guidance_scale=self.image_guidance_scale,
            shift=self.shift,
            generator=torch.Generator().manual_seed(request.seed),
        ):
            into[at : at + len(part)] = part
            at += len(part)

    def _whole(self, request: Request, image: np.ndarray | None, into: np.ndarray) -> None:
        """One pass over the 4k+1 frames that hold them all, trimmed."""
        import torch

        group = arguments.FRAME_GROUP
        output = self._pipeline(
            request.prompt,
            image,
            num_frames=1 + group * -(-(self.num_frames - 1) // group),
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            image_guidance_scale=self.image_guidance_scale,
            shift=self.shift,
            generator=torch.Generator().manual_seed(request.seed),
        )
        into[:] = to_uint8(output.frames[0, : self.num_frames])


@dataclass
class LongTruth(Truth):
    """The scene of the prompt, rendered for `seconds`: what drift scores say where nothing drifts."""

    seconds: float = 60.0
    num_frames: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_frames = Plan(self.seconds, 33, 1).frames

    def seconds_per_clip(self) -> float:
        return 0.01 * self.seconds
