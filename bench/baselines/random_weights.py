"""Published systems without their weights: pipelines of random numbers, for latency and memory alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.baselines import tiny
from bench.baselines.recipes import Recipe

_TINY_ENCODERS: dict[str, Callable[[], Any]] = {
    "hunyuan": tiny.llama,
    "wan": tiny.umt5,
    "ltx": tiny.t5,
    "cogvideox": tiny.t5,
}


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
