"""Published systems through diffusers, behind the same door as ours: `Peer`, one adapter for all `RECIPES`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from bench import hardware
from bench.baselines import tiny
from bench.baselines.random_weights import build
from bench.baselines.recipes import RECIPES, Recipe
from bench.errors import UnsupportedError, nearest
from bench.records import RANDOM_WEIGHTS
from bench.systems import Facts, Output, Request, Stages, to_uint8
from magic141 import arguments, weights
from magic141.errors import InputError, WeightsMissing
from magic141.stages import DENOISE, IMAGE_ENCODE, TEXT_ENCODE, VAE_DECODE

TILED = ("hunyuan", "cogvideox")
"""Families whose cards decode in tiles."""
GPU_FLOPS = 4e14
"""What a plan takes an accelerator to do in a second."""
POOLED_WIDTH = 768
OTHER_SIZE = 0.3
"""Share by which a checkpoint may have other parameters than its system's authors say, who round."""


@dataclass
class Peer:
    """A published system. Knobs that are None take the value of its recipe (`bench/baselines/recipes.py`).

    `mode`: "real" runs the published weights, from folder or hub repository `model`, by default from the Hugging
    Face cache (planning never downloads: a miss is `weights-missing`). "random" builds transformer and VAE of the
    published configuration with random weights, for latency and memory alone: prompts become random embeddings of the
    published shape, so that text encoding is neither timed nor in memory. "tiny" is the same code at test scale. The
    last two carry the flag `random-weights`, and no score.

    A `denoise` entry is one forward pass: a guided step has two where the pipeline makes them one after the other.
    """

    system: str = "wan-2.1-1.3b"
    mode: Literal["real", "random", "tiny"] = "real"
    model: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    batch_size: int = 1

    imports: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "magic141.data.render")

    def __post_init__(self) -> None:
        if self.system not in RECIPES:
            raise InputError(f"unknown system {self.system!r}{nearest(self.system, RECIPES)}")
        recipe, small = self.recipe, self._small
        height, width, frames = small.size if small else (recipe.height, recipe.width, recipe.num_frames)
        steps = 2 if small else recipe.num_inference_steps
        published = {
            "height": height,
            "width": width,
            "num_frames": frames,
            "num_inference_steps": steps,
            "guidance_scale": recipe.guidance_scale,
        }
        for name, value in published.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        arguments.check_num_inference_steps(self.num_inference_steps or 0)
        arguments.check_guidance_scale(self.guidance_scale or 0.0)
        if self.precision == "auto":
            self.precision = hardware.auto_precision()
        if self.model is not None and self.mode != "real":
            raise InputError(
                f"model={self.model!r} has no meaning with mode={self.mode!r}: drop one of the two"
            )
        self._check_size(*self.size)

    @property
    def recipe(self) -> Recipe:
        return RECIPES[self.system]

    @property
    def size(self) -> tuple[int, int, int]:
        """Height, width and frames, all known."""
        assert self.height is not None
        assert self.width is not None
        assert self.num_frames is not None
        return self.height, self.width, self.num_frames

    @property
    def _small(self) -> tiny.Tiny | None:
        return tiny.TINY[self.system] if self.mode == "tiny" else None

    @property
    def fps(self) -> int:
        return self.recipe.fps

    @property
    def flags(self) -> tuple[str, ...]:
        """What every record of this system says of it."""
        return () if self.mode == "real" else (RANDOM_WEIGHTS,)

    def weights(self) -> str | None:
        return weights.fingerprint(self._folder()) if self.mode == "real" else None

    def seconds_per_clip(self) -> float:
        if self.mode == "tiny":
            return 1.0
        recipe = self.recipe
        tokens = recipe.video_tokens(*self.size)
        passes = (self.num_inference_steps or 0) * recipe.passes_per_step
        # Attention about doubles what the parameters alone cost.
        flops = 4 * recipe.claimed_parameters * tokens * passes
        return flops / (GPU_FLOPS if hardware.gpu_name() else 0.6 * hardware.matrix_flops())

    def load(self) -> None:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[self.precision]
        # Wan's card keeps its VAE in float32; the others decode as they denoise.
        vae_dtype = torch.float32 if self.recipe.family == "wan" else dtype
        if self.mode == "real":
            import diffusers

            cls = getattr(diffusers, self.recipe.pipeline)
            pipeline = cls.from_pretrained(
                str(self._folder()), dtype={"vae": vae_dtype, "default": dtype}
            ).to(device)
        else:
            pipeline = build(self.recipe, self._small, device, dtype, vae_dtype)
        if self.recipe.family in TILED and self.mode != "tiny":  # at test scale a tile would have no pixels
            pipeline.vae.enable_tiling()
        pipeline.set_progress_bar_config(disable=True)
        self._pipeline, self._device, self._dtype = pipeline, device, dtype
        self._stages: Stages | None = None
        self._mark()

    def facts(self) -> Facts:
        """Says so where a checkpoint is not of the size that was published under the system's name."""
        found = [getattr(self._pipeline, name, None) for name in ("transformer", "transformer_2")]
        models = [list(model.parameters()) for model in found if model is not None]
        share = sum(tensor.numel() for tensor in models[0]) / self.recipe.claimed_parameters
        other = self.mode == "real" and abs(share - 1) > OTHER_SIZE
        size = sum(tensor.numel() * tensor.element_size() for model in models for tensor in model)
        return Facts(size, (f"{share:.2g} of the published parameters",) if other else ())

    def generate(self, requests: Sequence[Request], stages: Stages) -> Output:
        import torch

        self._stages = stages
        asked: dict[str, Any] = dict(self.recipe.call)
        asked |= self._small.call if self._small else {}
        images = self._images(requests) if self.recipe.image_to_video else None
        if images is not None:
            asked["image"] = images
        asked |= self._prompt(requests)
        output = self._pipeline(
            **asked,
            height=self.height,
            width=self.width,
            num_frames=self.num_frames,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            generator=[torch.Generator(self._device).manual_seed(request.seed) for request in requests],
            output_type="np",
        )
        first = None if images is None else np.stack([np.asarray(image) for image in images])
        return Output(to_uint8(np.asarray(output.frames)), first)

    def _check_size(self, height: int, width: int, num_frames: int) -> None:
        t, h, w = (c * p for c, p in zip(self.recipe.compression, self.recipe.patch, strict=True))
        if self.recipe.family == "cogvideox":
            t *= 2  # its VAE decodes latents in pairs, after a first one
        if (num_frames - 1) % t or num_frames < 2:
            raise InputError(f"num_frames={num_frames} must be {t}k + 1 for {self.system}")
        if height % h or width % w or height < h or width < w:
            raise InputError(
                f"height={height}, width={width} must be multiples of {h} and {w} for {self.system}"
            )

    def _folder(self) -> Path:
        if self.model is not None:
            folder = weights.resolve(self.model, {"local_files_only": True})
            if lacks := weights.incomplete(folder):
                raise WeightsMissing(f"{self.model} has no {lacks}: download it again")
            return folder
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(self.recipe.hub, local_files_only=True))
        except LocalEntryNotFoundError:
            folder = Path()
        if lacks := weights.incomplete(folder):
            raise WeightsMissing(
                f"no weights {self.recipe.hub!r} in the Hugging Face cache (no {lacks}): `hf download "
                f"{self.recipe.hub}`, or name a folder with `model`; `mode: random` measures latency and memory "
                "without them"
            )
        return folder

    def _mark(self) -> None:
        """Puts the parts of the pipeline between the clocks of the bench."""
        pipeline = self._pipeline
        if self._encodes_text:
            pipeline.encode_prompt = self._staged(TEXT_ENCODE, pipeline.encode_prompt)
        for name in ("transformer", "transformer_2"):
            model = getattr(pipeline, name, None)
            if model is not None:
                model.forward = self._staged(DENOISE, model.forward)
        pipeline.vae.encode = self._staged(IMAGE_ENCODE, pipeline.vae.encode)
        pipeline.vae.decode = self._staged(VAE_DECODE, pipeline.vae.decode)

    def _staged(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            assert self._stages is not None
            with self._stages(name):
                return function(*args, **kwargs)

        return timed

    @property
    def _encodes_text(self) -> bool:
        return getattr(self._pipeline, "text_encoder", None) is not None

    def _prompt(self, requests: Sequence[Request]) -> dict[str, Any]:
        if not self._encodes_text:
            return self._random_embeddings(requests)
        arguments: dict[str, Any] = {"prompt": [request.prompt for request in requests]}
        if self.mode == "real" and self.recipe.negative_prompt:
            arguments["negative_prompt"] = [self.recipe.negative_prompt] * len(requests)
        if self.mode == "tiny":
            arguments["max_sequence_length"] = tiny.TOKENS
            if self.recipe.family == "hunyuan":
                arguments["prompt_template"] = {"template": "{}", "crop_start": 0}
        return arguments

    def _random_embeddings(self, requests: Sequence[Request]) -> dict[str, Any]:
        """Embeddings of the shape that the text encoder would give, each drawn from its request's seed."""
        import torch

        small = self._small
        length = tiny.TOKENS if small else self.recipe.text_tokens
        width = small.text_width if small else self.recipe.text_width

        def draw(*shape: int) -> Any:
            draws = [
                torch.randn(shape, generator=torch.Generator().manual_seed(request.seed))
                for request in requests
            ]
            return torch.stack(draws).to(self._device, self._dtype)

        embeds = draw(length, width)
        if self.recipe.family == "hunyuan":
            mask = torch.ones(len(requests), length, device=self._device, dtype=torch.int64)
            pooled = draw(tiny.WIDTH if small else POOLED_WIDTH)
            return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled, "prompt_attention_mask": mask}
        arguments = {"prompt_embeds": embeds, "negative_prompt_embeds": torch.zeros_like(embeds)}
        if self.recipe.family in ("ltx", "ltx2"):
            mask = torch.ones(len(requests), length, device=self._device, dtype=torch.int64)
            arguments |= {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask}
        return arguments

    def _images(self, requests: Sequence[Request]) -> list[Any]:
        """What each clip starts from: the true first frame, or noise where only cost is measured."""
        from PIL import Image

        from magic141.data.render import render

        height, width, _ = self.size
        images = []
        for request in requests:
            if request.scene is not None:
                pixels = render([request.scene], 1)[0, 0].numpy()
            elif self.mode == "real":
                raise UnsupportedError(
                    f"{self.system} needs first frames: prompts of the lab world have them"
                )
            else:
                pixels = np.random.default_rng(request.seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            images.append(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
        return images
