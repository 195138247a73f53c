"""What systems cost before anyone runs them: parameters, tokens, FLOPs, and the roofline floor on named devices.

Models are built from their published configuration on the meta device: no weights, no accelerator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from bench import devices, flops
from bench.baselines.recipes import RECIPES, Family, Recipe
from bench.records import AnalyticRow, digest
from magic141.presets import LAB, MAGIC141_13B, Preset

BYTES = 2
"""A parameter in bf16."""
TEXT_TOKENS_13B = 256
LAB_TOKENS = 40 + 16
"""Of text and of the image, beside the tokens of a video."""
SECONDS = 40.0
"""What a plan takes all models to be built in."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One line of the table: a model, a clip, and how often the model passes over it."""

    system: str
    setting: str
    family: Family
    transformer: Callable[[], tuple[Any, int]]
    vae: Callable[[], tuple[Any, int]]
    num_transformers: int
    tokens: Mapping[flops.Stream, int]
    passes: int
    seconds: float
    claimed: str
    claimed_parameters: float | None
    checkpoint_parameters: int | None
    source: str


def rows() -> list[AnalyticRow]:
    """One for each subject: ours first, then peers in the order of their recipes. Takes seconds, once a process."""
    return [_row(subject) for subject in (*_ours(), *map(_peer, RECIPES.values()))]


def question() -> str:
    """What `rows` is an answer to, as a hash: recipes, presets and data sheets. Imports no torch."""
    facts = (*RECIPES.values(), LAB, MAGIC141_13B, *devices.DEVICES)
    return digest([repr(fact) for fact in facts])


def _row(subject: Subject) -> AnalyticRow:
    model, parameters = subject.transformer()
    _, vae_parameters = subject.vae()
    cost = flops.count(model, subject.family, subject.tokens)
    return AnalyticRow(
        system=subject.system,
        setting=subject.setting,
        parameters=parameters * subject.num_transformers,
        vae_parameters=vae_parameters,
        parameter_bytes=BYTES * (parameters * subject.num_transformers + vae_parameters),
        claimed=subject.claimed,
        deviation_from_claim=_deviation(parameters, subject.claimed_parameters),
        deviation_from_checkpoint=_deviation(parameters, subject.checkpoint_parameters),
        video_tokens=subject.tokens["video"],
        other_tokens=subject.tokens["text"] + subject.tokens["audio"],
        pass_flops=cost.total,
        attention_share=cost.attention / cost.total,
        passes=subject.passes,
        clip_flops=cost.total * subject.passes,
        clip_seconds=subject.seconds,
        floor_seconds={
            device.name: subject.passes * devices.floor(device, cost.total, BYTES * parameters)
            for device in devices.DEVICES
        },
        source=subject.source,
    )


def _deviation(parameters: int, published: float | None) -> float | None:
    return None if published is None else parameters / published - 1


def _peer(recipe: Recipe) -> Subject:
    video = recipe.video_tokens(recipe.height, recipe.width, recipe.num_frames)
    audio = recipe.audio_tokens(recipe.num_frames)
    passes = recipe.num_inference_steps * recipe.passes_per_step
    return Subject(
        system=recipe.name,
        setting=_setting(
            recipe.height, recipe.width, recipe.num_frames, recipe.num_inference_steps, recipe.passes_per_step
        ),
        family=recipe.family,
        transformer=lambda: _diffusers(recipe.transformer, _frozen(recipe.transformer_config)),
        vae=lambda: _diffusers(recipe.vae, _frozen(recipe.vae_config)),
        num_transformers=recipe.num_transformers,
        tokens=flops.tokens(video, recipe.text_tokens, audio, recipe.timesteps(video)),
        passes=passes,
        seconds=recipe.num_frames / recipe.fps,
        claimed=recipe.claimed,
        claimed_parameters=recipe.claimed_parameters,
        checkpoint_parameters=recipe.checkpoint_parameters,
        source=f"{recipe.citation}; size: {recipe.parameters_source}",
    )


def _ours() -> list[Subject]:
    """Our 13B with four steps and no guidance pass at the sizes of DESIGN.md, and the lab's teacher."""
    clips = [
        (368, 640, 129, 8, 4, 2),
        (544, 960, 81, 8, 4, 2),
        (544, 960, 121, 8, 4, 2),
        (544, 960, 121, 32, 8, 1),
    ]
    found = []
    for height, width, num_frames, space, time, patch in clips:
        latents = ((num_frames - 1) // time + 1, height // space, width // space)
        video = latents[0] * (latents[1] // patch) * (latents[2] // patch)
        config = dataclasses.replace(MAGIC141_13B.transformer, patch_size=patch)
        note = "" if space == 8 else f", latent {space}×{space}×{time}"
        setting = _setting(height, width, num_frames, 4, 1) + note
        tokens = flops.tokens(video, TEXT_TOKENS_13B)
        found.append(
            _own(
                dataclasses.replace(MAGIC141_13B, transformer=config),
                setting,
                tokens,
                4,
                num_frames / 24,
                13e9,
            )
        )
    clip, side = LAB.video, LAB.transformer.patch_size
    _, t, h, w = clip.latent_shape
    tokens = flops.tokens(t * (h // side) * (w // side), LAB_TOKENS)
    steps = LAB.sampler.num_inference_steps
    setting = _setting(clip.height, clip.width, clip.num_frames, steps, 2) + ", image to video"
    return [*found, _own(LAB, setting, tokens, 2 * steps, clip.num_frames / clip.fps, None)]


def _own(
    preset: Preset,
    setting: str,
    tokens: Mapping[flops.Stream, int],
    passes: int,
    seconds: float,
    claimed: float | None,
) -> Subject:
    big = claimed is not None
    vae = (
        ("diffusers", "AutoencoderKLHunyuanVideo") if big else ("magic141.autoencoder", "AutoencoderMagic141")
    )
    return Subject(
        system=f"magic141 {preset.name}",
        setting=setting,
        family="magic141",
        transformer=lambda: _meta(
            "magic141.transformer",
            "Magic141Transformer3DModel",
            _frozen(dataclasses.asdict(preset.transformer)),
        ),
        vae=lambda: _meta(*vae, ()),
        num_transformers=1,
        tokens=tokens,
        passes=passes,
        seconds=seconds,
        claimed="13B, as HunyuanVideo" if big else "",
        claimed_parameters=claimed,
        checkpoint_parameters=None,
        source="arXiv 2502.07701; magic141/presets.py",
    )


def _setting(height: int, width: int, num_frames: int, steps: int, passes_per_step: int) -> str:
    guided = "" if passes_per_step == 1 else f" × {passes_per_step} passes"
    return f"{height}×{width}×{num_frames}, {steps} steps{guided}"


def _frozen(config: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in config.items())


def _diffusers(cls: str, config: tuple[tuple[str, Any], ...]) -> tuple[Any, int]:
    return _meta("diffusers", cls, config)


@cache
def _meta(module: str, cls: str, config: tuple[tuple[str, Any], ...]) -> tuple[Any, int]:
    """The model on the meta device, and its parameter count."""
    import importlib

    import torch

    with torch.device("meta"):
        model = getattr(importlib.import_module(module), cls)(**dict(config))
    return model, sum(parameter.numel() for parameter in model.parameters())


def markdown(table: Sequence[AnalyticRow]) -> str:
    """docs/systems.md."""
    names = [device.name for device in devices.DEVICES]
    lines = [
        "# What systems cost before anyone runs them",
        "",
        "Generated by `python -m bench analytic --markdown docs/systems.md`; a test keeps it so. Parameters are",
        "counted on the meta device from the published configuration, FLOPs by formula (linear layers and",
        "attention), and a floor is the larger of arithmetic at the vendor's dense bf16 peak and of reading the",
        "weights once, times the passes of a clip. It covers denoising alone: text encoding, VAE and file are on",
        "top. Where guidance needs several passes a step, each counts. Nothing here was measured, but for the 790",
        "TFLOP/s that one H100 reached.",
        "",
        "## Size",
        "",
        "| system | denoiser parameters | claimed | deviation | checkpoint's own count | VAE parameters | bf16, both |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in _first(table):
        exact = (
            "not stated" if row.deviation_from_checkpoint is None else f"{row.deviation_from_checkpoint:+.2%}"
        )
        claim = "" if row.deviation_from_claim is None else f"{row.deviation_from_claim:+.1%}"
        lines.append(
            f"| {row.system} | {row.parameters:,} | {row.claimed} | {claim} | {exact} | {row.vae_parameters:,} "
            f"| {row.parameter_bytes / 1e9:.3g} GB |"
        )
    lines += [
        "",
        "Deviations are of one denoiser: wan-2.2-a14b has two of them. A claim is a name's round figure, so it may be",
        "far off; the checkpoint's own count is of the tensors that were published.",
        "",
        "## Arithmetic of one clip",
        "",
        "| system | clip | video tokens | other tokens | PFLOP a pass | attention | passes | PFLOP a clip |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.system} | {row.setting} | {row.video_tokens:,} | {row.other_tokens:,} | {row.pass_flops / 1e15:.3g} "
        f"| {row.attention_share:.0%} | {row.passes} | {row.clip_flops / 1e15:.3g} |"
        for row in table
    ]
    lines += [
        "",
        "## Floor, seconds a clip",
        "",
        f"| system | clip | seconds of video | {' | '.join(names)} |",
        f"|---|---|---|{'---|' * len(names)}",
    ]
    lines += [
        f"| {row.system} | {row.setting} | {row.clip_seconds:.3g} | "
        f"{' | '.join(f'{row.floor_seconds[name]:.3g}' for name in names)} |"
        for row in table
    ]
    lines += ["", "## Sources", ""]
    lines += [f"- {row.system}: {row.source}." for row in _first(table)]
    lines += [
        f"- {device.name}: {device.flops / 1e12:g} TFLOP/s, {device.bandwidth / 1e12:g} TB/s; {device.source}."
        for device in devices.DEVICES
    ]
    return "\n".join(lines) + "\n"


def _first(table: Sequence[AnalyticRow]) -> list[AnalyticRow]:
    """The first line of every system."""
    found: dict[str, AnalyticRow] = {}
    for row in table:
        found.setdefault(row.system, row)
    return list(found.values())
