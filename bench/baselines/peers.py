"""Published systems through diffusers, behind the same door as ours: `Peer`, one adapter for all `RECIPES`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from bench import hardware
from bench.baselines import tiny
from bench.baselines.recipes import RECIPES, Recipe
from bench.errors import UnsupportedError, nearest
from bench.records import RANDOM_WEIGHTS
from bench.systems import Output, Request, Stages, to_uint8
from magic141 import weights
from magic141.errors import InputError, WeightsMissing
from magic141.stages import DENOISE, IMAGE_ENCODE, TEXT_ENCODE, VAE_DECODE

TILED = ("hunyuan", "cogvideox")
"""Families whose cards decode in tiles."""
GPU_FLOPS = 4e14
"""What a plan takes an accelerator to do in a second."""
POOLED_WIDTH = 768


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
        self.height, self.width = self.height or height, self.width or width
        self.num_frames = self.num_frames or frames
        self.num_inference_steps = self.num_inference_steps or steps
        if self.guidance_scale is None:
            self.guidance_scale = recipe.guidance_scale
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

    def generate(self, requests: Sequence[Request], stages: Stages) -> Output:
        import torch

        self._stages = stages
        arguments: dict[str, Any] = dict(self.recipe.call)
        arguments |= self._small.call if self._small else {}
        images = self._images(requests) if self.recipe.image_to_video else None
        if images is not None:
            arguments["image"] = images
        arguments |= self._prompt(requests)
        output = self._pipeline(
            **arguments,
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
        if height % h or width % w:
            raise InputError(
                f"height={height}, width={width} must be multiples of {h} and {w} for {self.system}"
            )

    def _folder(self) -> Path:
        if self.model is not None:
            return weights.resolve(self.model)
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(self.recipe.hub, local_files_only=True))
        except LocalEntryNotFoundError:
            folder = Path()
        if not (folder / weights.INDEX).is_file():
            raise WeightsMissing(
                f"no weights {self.recipe.hub!r} in the Hugging Face cache: `hf download {self.recipe.hub}`, or name "
                "a folder with `model`; `mode: random` measures latency and memory without them"
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


def build(recipe: Recipe, small: tiny.Tiny | None, device: str, dtype: Any, vae_dtype: Any) -> Any:
    """The pipeline of `recipe` with random weights: published configuration and no text encoder, or `small` with
    one where its kind is quickly made (LLaVA and Gemma are not).
    """
    import diffusers

    def make(cls: Any, config: Mapping[str, Any], dtype: Any = dtype) -> Any:
        return random_model(getattr(diffusers, cls) if isinstance(cls, str) else cls, config, device, dtype)

    transformer = dict(recipe.transformer_config) | dict(small.transformer if small else {})
    vae = dict(recipe.vae_config) | dict(small.vae if small else {})
    parts = {
        "transformer": make(recipe.transformer, transformer),
        "vae": make(recipe.vae, vae, vae_dtype),
        "scheduler": getattr(diffusers, recipe.scheduler)(**recipe.scheduler_config),
        **recipe.pipeline_config,
    }
    if recipe.num_transformers == 2:
        parts["transformer_2"] = make(recipe.transformer, transformer)
    pairs = ("", "_2") if recipe.family == "hunyuan" else ("",)
    parts |= dict.fromkeys(f"{part}{number}" for part in ("text_encoder", "tokenizer") for number in pairs)
    if recipe.image_to_video:
        parts["image_processor"] = None
    elif small and recipe.family in _TINY_ENCODERS:
        parts |= {"text_encoder": _TINY_ENCODERS[recipe.family](), "tokenizer": tiny.tokenizer()}
        if recipe.family == "hunyuan":
            parts |= {"text_encoder_2": tiny.clip(), "tokenizer_2": tiny.tokenizer()}
    if recipe.family == "ltx2":
        parts |= _ltx2_parts(make, small)
    pipeline = getattr(diffusers, recipe.pipeline)(**parts)
    for name in ("text_encoder", "text_encoder_2"):
        if getattr(pipeline, name, None) is not None:
            getattr(pipeline, name).to(device, dtype)
    return pipeline


_TINY_ENCODERS: dict[str, Callable[[], Any]] = {
    "hunyuan": tiny.llama,
    "wan": tiny.umt5,
    "ltx": tiny.t5,
    "cogvideox": tiny.t5,
}


def random_model(cls: Any, config: Mapping[str, Any], device: str, dtype: Any) -> Any:
    """A diffusers model whose weights are drawn where they stay and as wide as they stay: one of 14 billion would
    not fit an 80 GB card in float32. What its class keeps in float32 stays so.
    """
    import torch
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model = cls(**config)
    kept = set(cls._keep_in_fp32_modules or ())
    generator = torch.Generator(device).manual_seed(0)
    for owner_name, owner in model.named_modules():
        for name, empty in list(owner.named_parameters(recurse=False)):
            wide = kept.intersection([*owner_name.split("."), name])
            drawn = torch.empty(empty.shape, dtype=torch.float32 if wide else dtype, device=device)
            if empty.ndim > 1:
                fan_in = max(1, empty.numel() // empty.shape[0])
                drawn.normal_(std=fan_in**-0.5, generator=generator)
            else:
                drawn.fill_(name == "weight")
            setattr(owner, name, torch.nn.Parameter(drawn, requires_grad=False))
    return model.to(device).eval()


def _ltx2_parts(make: Callable[..., Any], small: tiny.Tiny | None) -> dict[str, Any]:
    """LTX-2 draws sound with its pictures."""
    from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder

    configs = tiny.LTX2_PARTS if small else {name: {} for name in tiny.LTX2_PARTS}
    classes = {
        "connectors": LTX2TextConnectors,
        "audio_vae": "AutoencoderKLLTX2Audio",
        "vocoder": LTX2Vocoder,
    }
    return {name: make(cls, configs[name]) for name, cls in classes.items()}
