"""Reference rows of the lab world: they calibrate every score. All are asked to start from
the true first frame, and answer for prompts that have a scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bench.errors import UnsupportedError
from bench.systems import Output, Request, Stages
from magic141.data.factors import FRAME_SIZE
from magic141.data.world import Scene
from magic141.errors import InputError

RENDER = "render"
NO_TRUTH = "truth is known for prompts of the lab world alone: give `prompts: {split: …}`"


@dataclass
class Truth:
    """The scene of the prompt, rendered: what a perfect system would be scored."""

    num_frames: int = 33
    batch_size: int = 1

    imports: ClassVar[tuple[str, ...]] = ("torch", "magic141.data.render")
    fps: ClassVar[int] = 16

    def weights(self) -> str | None:
        return None

    def seconds_per_clip(self) -> float:
        return 0.01

    def load(self) -> None:
        pass

    def generate(self, requests: Sequence[Request], stages: Stages) -> Output:
        from magic141.data.render import render

        with stages(RENDER):
            first_frames = render(scenes_of(requests), 1)[:, 0].numpy()
            return Output(self._frames(requests), first_frames)

    def _frames(self, requests: Sequence[Request]) -> np.ndarray:
        from magic141.data.render import render

        return render(scenes_of(requests), self.num_frames).numpy()


@dataclass
class Static(Truth):
    """The first true frame, repeated: right in everything but motion."""

    def _frames(self, requests: Sequence[Request]) -> np.ndarray:
        from magic141.data.render import render

        return render(scenes_of(requests), 1).expand(-1, self.num_frames, -1, -1, -1).numpy()


@dataclass
class LastFrame(Truth):
    """The true clip up to frame `known_frames`, which then stands: what a continuation is worth that does not move."""

    known_frames: int = 5

    def __post_init__(self) -> None:
        if not 1 <= self.known_frames < self.num_frames:
            raise InputError(f"known_frames={self.known_frames} must lie in 1 to {self.num_frames - 1}")

    def _frames(self, requests: Sequence[Request]) -> np.ndarray:
        from magic141.data.render import render

        known = render(scenes_of(requests), self.known_frames)
        still = known[:, -1:].expand(-1, self.num_frames - self.known_frames, -1, -1, -1)
        return np.concatenate([known.numpy(), still.numpy()], axis=1)


@dataclass
class Noise(Truth):
    """Uniform random pixels, drawn from the request's seed: wrong in everything."""

    def _frames(self, requests: Sequence[Request]) -> np.ndarray:
        import torch

        shape = (self.num_frames, FRAME_SIZE, FRAME_SIZE, 3)
        clips = [
            torch.randint(256, shape, generator=torch.Generator().manual_seed(r.seed), dtype=torch.uint8)
            for r in requests
        ]
        return torch.stack(clips).numpy()


def scenes_of(requests: Sequence[Request], otherwise: str = NO_TRUTH) -> list[Scene]:
    """Raises UnsupportedError, which says `otherwise`, where a prompt has none."""
    scenes = [request.scene for request in requests if request.scene is not None]
    if len(scenes) < len(requests):
        raise UnsupportedError(otherwise)
    return scenes
