"""Weights of diffusers' `HunyuanVideoTransformer3DModel`, to ours and back, tensor for tensor.

Ours fuses projections that read the same input; otherwise the two differ in names and two shapes only.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

# A module of ours -> the modules of theirs whose rows it stacks, per kind of block.
REFINER = {
    "norm1": ("norm1",),
    "to_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "to_out": ("attn.to_out.0",),
    "norm2": ("norm2",),
    "mlp_in": ("ff.net.0.proj",),
    "mlp_out": ("ff.net.2",),
    "modulation": ("norm_out.linear",),
}
DUAL = {
    "modulation": ("norm1.linear", "norm1_context.linear"),
    "video.to_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "video.norm_qk": ("attn.norm_q", "attn.norm_k"),
    "video.to_out": ("attn.to_out.0",),
    "video.mlp_in": ("ff.net.0.proj",),
    "video.mlp_out": ("ff.net.2",),
    "text.to_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "text.norm_qk": ("attn.norm_added_q", "attn.norm_added_k"),
    "text.to_out": ("attn.to_add_out",),
    "text.mlp_in": ("ff_context.net.0.proj",),
    "text.mlp_out": ("ff_context.net.2",),
}
SINGLE = {
    "modulation": ("norm.linear",),
    "to_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "norm_qk": ("attn.norm_q", "attn.norm_k"),
    "mlp_in": ("proj_mlp",),
    "to_out": ("proj_out",),
}
BLOCKS = {
    "context_embedder.blocks": ("context_embedder.token_refiner.refiner_blocks", REFINER),
    "transformer_blocks": ("transformer_blocks", DUAL),
    "single_transformer_blocks": ("single_transformer_blocks", SINGLE),
}
SINGLES = {"x_embedder": "x_embedder.proj", "norm_out": "norm_out.linear"}


def sources(key: str) -> list[str]:
    """The keys of their state dict whose tensors, stacked, are the tensor `key` of ours."""
    module, _, leaf = key.rpartition(".")
    for ours, (theirs, names) in BLOCKS.items():
        if module.startswith(f"{ours}."):
            index, _, name = module.removeprefix(f"{ours}.").partition(".")
            return [f"{theirs}.{index}.{source}.{leaf}" for source in names[name]]
    return [f"{SINGLES.get(module, module)}.{leaf}"]


def from_hunyuan_state(
    theirs: dict[str, Tensor], keys_and_shapes: dict[str, torch.Size]
) -> dict[str, Tensor]:
    """State dict for a model of ours with these keys and shapes, from theirs."""
    return {
        key: torch.cat([theirs[source] for source in sources(key)]).reshape(shape)
        for key, shape in keys_and_shapes.items()
    }


def to_hunyuan_state(ours: dict[str, Tensor], shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """State dict for a model of theirs with these shapes, from ours; the inverse of `from_hunyuan_state`."""

    def pieces() -> Iterator[tuple[str, Tensor]]:
        for key, tensor in ours.items():
            names = sources(key)
            rows = tensor.reshape(-1, *tensor.shape[1:]) if "norm_qk" not in key else tensor.flatten()
            for name, piece in zip(names, rows.chunk(len(names)), strict=True):
                yield name, piece.reshape(shapes[name]).clone()

    return dict(pieces())
