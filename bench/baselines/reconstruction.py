"""The autoencoder alone: truth, encoded and decoded. It shows what a denoiser that ends in these latents can reach."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bench.baselines.lab import fingerprint
from bench.baselines.reference import Truth, scenes_of
from bench.systems import Request
from magic141.weights import DIRECTORY_VARIABLE


@dataclass
class Reconstruction(Truth):
    """The scene of the prompt, rendered, encoded and decoded by the autoencoder of `model`, in fp32."""

    model: str = "lab"

    imports: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "magic141.pipeline", "magic141.data.render")

    def weights(self) -> str | None:
        return fingerprint(self.model, os.environ.get(DIRECTORY_VARIABLE))

    def seconds_per_clip(self) -> float:
        return 0.05

    def load(self) -> None:
        import torch

        from magic141.pipeline import Magic141Pipeline

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._vae = Magic141Pipeline.from_pretrained(self.model).vae.to(device)

    def _frames(self, requests: Sequence[Request]) -> np.ndarray:
        import torch

        from magic141.data.render import render
        from magic141.train.vae import to_model, to_uint8

        video = to_model(render(scenes_of(requests), self.num_frames)).to(self._vae.device)
        with torch.inference_mode():
            return to_uint8(self._vae.decode(self._vae.encode(video))).cpu().numpy()
