"""What a gate measures: one short call each, made the same way in either tree. `scripted` needs no torch.

A workload is a dataclass whose fields are its knobs:

    @dataclass
    class Mine:
        size: int = 4

        imports: ClassVar[tuple[str, ...]] = ("torch",)    # third-party modules, loaded once, before any worker

        def load(self) -> None: ...                         # `magic141` is imported here, from the worker's tree
        def run(self) -> Any: ...                           # the call; returns tensors, arrays or bytes
        def counters(self) -> dict[str, int]: ...           # of one call, see `bench/gate/config.py`

Whatever `load` misses in a base (a module, an argument, a weights file) makes the gate INVALID, not a pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from bench.gate.torch_counters import count

LIBRARIES = (
    "torch",
    "torch.profiler",
    "torch.utils.flop_counter",
    "diffusers.pipelines.pipeline_utils",
    "diffusers.models.transformers.transformer_hunyuan_video",
    "transformers.models.clip.modeling_clip",
)
TEXT_TOKENS = 40
"""16 of the image and 24 of the caption, as a lab clip has."""


@dataclass
class DenoiseStep:
    """One forward pass of the transformer of `model` over the latents of `batch_size` clips."""

    model: str = "lab"
    batch_size: int = 1

    imports: ClassVar[tuple[str, ...]] = LIBRARIES

    def load(self) -> None:
        import torch

        from magic141 import weights
        from magic141.presets import LAB
        from magic141.transformer import Magic141Transformer3DModel

        folder = weights.resolve(self.model) / "transformer"
        self._model = Magic141Transformer3DModel.from_pretrained(folder).to(device()).eval()
        config, batch = self._model.config, self.batch_size
        draw = Normal(torch.Generator().manual_seed(0))
        self._arguments = {
            "hidden_states": draw(batch, config.in_channels, *LAB.video.latent_shape[1:]),
            "timestep": torch.full((batch,), 500.0, device=device()),
            "encoder_hidden_states": draw(batch, TEXT_TOKENS, config.text_embed_dim),
            "pooled_projections": draw(batch, config.pooled_projection_dim),
        }

    def run(self) -> Any:
        return self._model(**self._arguments, return_dict=False)[0]

    def counters(self) -> dict[str, int]:
        return count(self.run, [self._model])


@dataclass
class Decode:
    """The VAE's way from the latents of `batch_size` clips to pixels."""

    model: str = "lab"
    batch_size: int = 1

    imports: ClassVar[tuple[str, ...]] = LIBRARIES

    def load(self) -> None:
        import torch

        from magic141 import weights
        from magic141.autoencoder import AutoencoderMagic141
        from magic141.presets import LAB

        folder = weights.resolve(self.model) / "vae"
        self._model = AutoencoderMagic141.from_pretrained(folder).to(device()).eval()
        draw = Normal(torch.Generator().manual_seed(0))
        self._latents = draw(self.batch_size, *LAB.video.latent_shape)

    def run(self) -> Any:
        return self._model.decode(self._latents)

    def counters(self) -> dict[str, int]:
        return count(self.run, [self._model])


@dataclass
class Pipeline:
    """Text to image to video, end to end: what lies between the networks counts here."""

    model: str = "lab"
    num_inference_steps: int = 1
    num_frames: int = 5
    guidance_scale: float = 2.0

    imports: ClassVar[tuple[str, ...]] = LIBRARIES

    def load(self) -> None:
        from magic141.pipeline import Magic141Pipeline

        self._pipeline = Magic141Pipeline.from_pretrained(self.model).to(device())
        self._pipeline.set_progress_bar_config(disable=True)

    def run(self) -> Any:
        import torch

        return self._pipeline(
            prompt="a small red ring drifting left over dark stripes",
            num_frames=self.num_frames,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).frames

    def counters(self) -> dict[str, int]:
        parts = self._pipeline.components.values()
        return count(self.run, [part for part in parts if hasattr(part, "parameters")])


class Normal:
    """Draws tensors on the CPU, alike on every device, and moves them to `device()`."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def __call__(self, *shape: int) -> Any:
        import torch

        return torch.randn(*shape, generator=self._generator).to(device())


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
