"""FLOPs of one forward pass by formula: 2 in out a token and linear layer, 4 n m width an attention of n on m tokens.

Layers come from the module tree, so a model on the meta device will do; which tokens pass a layer is what the rules
of its family say, the first match counts. Norms, activations and rotations are left out: they cost memory traffic.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bench.baselines.recipes import Family

Stream = Literal["video", "text", "joint", "audio", "timestep", "once"]
"""`joint`: video and text tokens; `timestep`: once for each time that a pass is told, such as one a video token."""

LINEARS: dict[Family, tuple[tuple[str, Stream], ...]] = {
    "magic141": (
        ("time|modulation|norm_out", "once"),
        (r"context_embedder|\.text\.", "text"),
        ("single_transformer_blocks", "joint"),
        (r"x_embedder|\.video\.|proj_out", "video"),
    ),
    "hunyuan": (
        (r"context_embedder.*(time|norm)", "once"),
        (r"timestep_embedder|^(single_)?transformer_blocks\.\d+\.norm1?\.", "timestep"),
        ("time|norm", "once"),
        (r"context_embedder|\.add_|to_add_out|ff_context", "text"),
        ("single_transformer_blocks", "joint"),
        (r"x_embedder|\.attn\.|\.ff\.|proj_out", "video"),
    ),
    "wan": (
        (r"\.time_", "timestep"),
        (r"text_embedder|attn2\.to_[kv]", "text"),
        (r"patch_embedding|attn[12]|ffn|proj_out", "video"),
    ),
    "ltx": (
        ("time_embed", "once"),
        (r"caption_projection|attn2\.to_[kv]", "text"),
        (r"proj_in|attn[12]|\.ff\.|proj_out", "video"),
    ),
    "ltx2": (
        ("time_embed|av_cross_attn|adaln", "once"),
        (r"caption_projection|attn2\.to_[kv]", "text"),
        (r"audio_to_video_attn\.to_[kv]", "audio"),
        (r"video_to_audio_attn\.to_[kv]", "video"),
        ("audio_to_video_attn", "video"),
        ("video_to_audio_attn|audio_", "audio"),
        (r"proj_in|attn[12]|\.ff\.|proj_out", "video"),
    ),
    "cogvideox": (
        ("time_embedding|norm", "once"),
        ("text_proj", "text"),
        (r"attn1|\.ff\.", "joint"),
        ("patch_embed|proj_out", "video"),
    ),
}
ATTENTION: dict[Family, tuple[tuple[str, Stream, Stream], ...]] = {
    "magic141": (
        (r"context_embedder.*to_qkv", "text", "text"),
        (r"(\.video|single_transformer_blocks\.\d+)\.to_qkv", "joint", "joint"),
    ),
    "hunyuan": (
        (r"context_embedder.*to_q$", "text", "text"),
        (r"transformer_blocks.*to_q$", "joint", "joint"),
    ),
    "wan": ((r"attn1\.to_q$", "video", "video"), (r"attn2\.to_q$", "video", "text")),
    "ltx": ((r"attn1\.to_q$", "video", "video"), (r"attn2\.to_q$", "video", "text")),
    "ltx2": (
        (r"audio_to_video_attn\.to_q$", "video", "audio"),
        (r"video_to_audio_attn\.to_q$", "audio", "video"),
        (r"audio_attn1\.to_q$", "audio", "audio"),
        (r"audio_attn2\.to_q$", "audio", "text"),
        (r"attn1\.to_q$", "video", "video"),
        (r"attn2\.to_q$", "video", "text"),
    ),
    "cogvideox": ((r"attn1\.to_q$", "joint", "joint"),),
}
"""By the name of the layer that makes queries, whose width is that of the attention."""


@dataclass(frozen=True)
class Flops:
    """Of one forward pass of one clip."""

    linear: float
    attention: float

    @property
    def total(self) -> float:
        return self.linear + self.attention


def tokens(video: int, text: int, audio: int = 0, timesteps: int = 1) -> Mapping[Stream, int]:
    """How many tokens each stream has."""
    return {
        "video": video,
        "text": text,
        "joint": video + text,
        "audio": audio,
        "timestep": timesteps,
        "once": 1,
    }


def count(model: Any, family: Family, streams: Mapping[Stream, int]) -> Flops:
    """FLOPs of a pass of `model`, on any device. Raises ValueError for a layer that no rule of `family` covers."""
    import torch

    linear = attention = 0.0
    for name, layer in model.named_modules():
        if not isinstance(layer, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d):
            continue
        stream = next((stream for rule, stream in LINEARS[family] if re.search(rule, name)), None)
        if stream is None:
            raise ValueError(f"{type(model).__name__}: no rule of {family!r} says which tokens pass {name}")
        linear += 2.0 * layer.weight.numel() * streams[stream]
        for rule, queries, keys in ATTENTION[family]:
            if re.search(rule, name):
                width = layer.weight.shape[0] // (3 if name.endswith("qkv") else 1)
                attention += 4.0 * streams[queries] * streams[keys] * width
                break
    return Flops(linear, attention)
