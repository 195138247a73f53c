"""The video transformer: dual-stream blocks, then single-stream blocks, over video and text tokens.

The architecture is HunyuanVideo's (arXiv 2412.03603), which the Magic 1-For-1 paper (arXiv 2502.07701) starts
from; `from_hunyuan` converts weights both ways. It can also share one modulation network among all blocks of a
kind, and be told that a clip continues an earlier one.

Axes in comments: B batch, N video tokens, L text tokens, S = N + L, H heads, D head width, C = H * D.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.attention import AttentionMixin
from diffusers.models.embeddings import (
    CombinedTimestepGuidanceTextProjEmbeddings,
    CombinedTimestepTextProjEmbeddings,
)
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoTransformer3DModel
from diffusers.utils import BaseOutput, apply_lora_scale
from torch import Tensor

from magic141.attention import RotaryEmbedding
from magic141.blocks import (
    REFINER_MLP_RATIO,
    DualStreamBlock,
    Modulation,
    SingleStreamBlock,
    TokenRefiner,
    kept,
    modulate,
)
from magic141.checkpoint import check_config, check_loaded
from magic141.errors import InputError, UnsupportedError
from magic141.hunyuan import from_hunyuan_state, to_hunyuan_state

IMAGE_CONDITION_TYPES = (None, "latent_concat", "latent_only", "tokens_only")
"""What of an image the model was trained with: latent and image tokens (the first two), or one of them."""


@dataclass
class Magic141TransformerOutput(BaseOutput):
    """`sample` (B, out_channels, T, H, W), the predicted velocity; `features`, one (B, N, C) per feature layer."""

    sample: Tensor
    features: tuple[Tensor, ...] = ()


class Magic141Transformer3DModel(ModelMixin, AttentionMixin, ConfigMixin, PeftAdapterMixin):
    """Predicts the velocity `v = eps - x0` of latents at time t (see `magic141.presets.TransformerConfig`).

    Args not found in diffusers' `HunyuanVideoTransformer3DModel`:
        activation_fn: of the MLPs, "gelu-approximate" (as there) or "gelu".
        shared_modulation: one modulation network for all blocks of a kind, plus a learned offset a block.
        continuation_embed: learn a vector each for clips that start a video and clips that continue one.
        pruned_ratio: share of heads and hidden units that every block lacks, and of units that the conditioning vector
            lacks (see `magic141.sparsify`); the width stays `num_attention_heads * attention_head_dim`.
        pruned_mlp_ratio: that of hidden units, where it is another than that of heads and conditioning.
        pruned_blocks: blocks left out of `num_layers + num_single_layers`, counted through both kinds from 0.

    Raises:
        InputError: a setting that contradicts another, or that this model does not have.
    """

    _supports_gradient_checkpointing = True
    _skip_layerwise_casting_patterns = ["x_embedder", "context_embedder", "norm"]
    _no_split_modules = ["DualStreamBlock", "SingleStreamBlock", "TokenRefiner"]
    _repeated_blocks = ["DualStreamBlock", "SingleStreamBlock"]
    # Context parallelism: every device holds a part of the video tokens and a part of the text tokens.
    _cp_plan = {
        "rope": {0: ContextParallelInput(split_dim=0, expected_dims=3, split_output=True)},
        "transformer_blocks.0": {
            "hidden_states": ContextParallelInput(split_dim=1, expected_dims=3),
            "encoder_hidden_states": ContextParallelInput(split_dim=1, expected_dims=3),
        },
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        out_channels: int = 16,
        num_attention_heads: int = 24,
        attention_head_dim: int = 128,
        num_layers: int = 20,
        num_single_layers: int = 40,
        num_refiner_layers: int = 2,
        mlp_ratio: float = 4.0,
        activation_fn: str = "gelu-approximate",
        patch_size: int = 2,
        patch_size_t: int = 1,
        guidance_embeds: bool = False,
        text_embed_dim: int = 4096,
        pooled_projection_dim: int = 768,
        rope_theta: float = 256.0,
        rope_axes_dim: tuple[int, ...] = (16, 56, 56),
        image_condition_type: str | None = None,
        shared_modulation: bool = False,
        continuation_embed: bool = False,
        pruned_ratio: float = 0.0,
        pruned_mlp_ratio: float | None = None,
        pruned_blocks: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        axes_fit = sum(rope_axes_dim) == attention_head_dim and all(axis % 2 == 0 for axis in rope_axes_dim)
        if len(rope_axes_dim) != 3 or not axes_fit:
            raise InputError(
                f"rope_axes_dim={rope_axes_dim} must be 3 even numbers that sum to {attention_head_dim=}"
            )
        if image_condition_type not in IMAGE_CONDITION_TYPES:
            raise InputError(
                f"{image_condition_type=} is unknown; use one of {', '.join(map(repr, IMAGE_CONDITION_TYPES))}"
            )
        layers = range(num_layers + num_single_layers)
        remaining = [layer for layer in layers if layer not in (pruned_blocks or ())]
        if pruned_blocks and not (remaining and set(pruned_blocks) < set(layers)):
            raise InputError(f"{pruned_blocks=} must be some, and not all, of 0..{len(layers) - 1}")

        dim = num_attention_heads * attention_head_dim
        patch = patch_size_t * patch_size**2
        heads = kept(num_attention_heads, pruned_ratio)
        mlp_dim, refiner_dim = (
            kept(int(dim * ratio), pruned_ratio if pruned_mlp_ratio is None else pruned_mlp_ratio)
            for ratio in (mlp_ratio, REFINER_MLP_RATIO)
        )
        cond_dim = kept(dim, pruned_ratio)
        block = (cond_dim, dim, heads, attention_head_dim, mlp_dim, activation_fn, shared_modulation)
        embed = (
            CombinedTimestepGuidanceTextProjEmbeddings
            if guidance_embeds
            else CombinedTimestepTextProjEmbeddings
        )

        self.rope = RotaryEmbedding(rope_axes_dim, rope_theta)
        self.x_embedder = nn.Linear(in_channels * patch, dim)
        self.context_embedder = TokenRefiner(
            text_embed_dim, cond_dim, dim, heads, attention_head_dim, refiner_dim, num_refiner_layers
        )
        self.time_text_embed = embed(cond_dim, pooled_projection_dim)
        self.continuation_embedder = nn.Embedding(2, cond_dim) if continuation_embed else None
        self.dual_modulation = Modulation(cond_dim, dim, 12) if shared_modulation else None
        self.single_modulation = Modulation(cond_dim, dim, 3) if shared_modulation else None
        self.transformer_blocks = nn.ModuleList(
            DualStreamBlock(*block) for layer in remaining if layer < num_layers
        )
        self.single_transformer_blocks = nn.ModuleList(
            SingleStreamBlock(*block) for layer in remaining if layer >= num_layers
        )
        self.norm_out = Modulation(cond_dim, dim, 2)
        self.proj_out = nn.Linear(dim, out_channels * patch)

        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)
        if self.continuation_embedder is not None:
            nn.init.normal_(self.continuation_embedder.weight, std=0.02)
        self.gradient_checkpointing = False

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        pooled_projections: Tensor | None = None,
        guidance: Tensor | None = None,
        continuation: Tensor | None = None,
        feature_layers: Sequence[int] = (),
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Magic141TransformerOutput | tuple[Tensor, ...]:
        """Velocity of noisy latents.

        Args:
            hidden_states: (B, in_channels, T, H, W); T, H, W multiples of the patch size.
            timestep: (B,), 1000 t, one time per sample.
            encoder_hidden_states: (B, L, text_embed_dim) prior tokens.
            encoder_attention_mask: (B, L), one for tokens, zero for padding at the end. None, or a mask on the
                CPU without a zero, means that nothing is padding: attention then runs without a mask, which
                flash kernels need. A mask on an accelerator is not read (that would wait for the device).
            pooled_projections: (B, pooled_projection_dim).
            guidance: (B,), 1000 x guidance scale; needed if and only if the model has `guidance_embeds`.
            continuation: (B,) bool, true where the clip continues an earlier one; None means all start.
            feature_layers: blocks whose video tokens to return as well, counted through dual-stream, then
                single-stream blocks from 0; for heads trained on mid-depth features.
            attention_kwargs: only "scale", of LoRA layers.

        Raises:
            InputError: an argument is missing, or has a shape that does not fit.
        """
        self._check_inputs(
            hidden_states,
            timestep,
            encoder_hidden_states,
            encoder_attention_mask,
            pooled_projections,
            guidance,
            continuation,
        )
        layers = len(self.transformer_blocks) + len(self.single_transformer_blocks)
        if any(not 0 <= layer < layers for layer in feature_layers):
            raise InputError(f"feature_layers={tuple(feature_layers)} must lie in 0..{layers - 1}")
        mask = text_mask(encoder_attention_mask, hidden_states.device)
        text = self.context_embedder(encoder_hidden_states, timestep, mask)
        x, grid = self._patchify(hidden_states)
        x = self.x_embedder(x)
        tokens = x.shape[1]
        if mask is not None:  # by count, not by place: like the reference, padding must come last
            last = tokens + mask.sum(dim=1, keepdim=True)
            mask = (torch.arange(tokens + text.shape[1], device=x.device) < last)[:, None, None]

        embed_args = (timestep, guidance) if self.config.guidance_embeds else (timestep,)
        vec = self.time_text_embed(*embed_args, pooled_projections)
        if self.continuation_embedder is not None:
            flag = torch.zeros_like(timestep) if continuation is None else continuation
            vec = vec + self.continuation_embedder(flag.long())
        vec = F.silu(vec)
        rope = self.rope(grid, x.device)

        features: dict[int, Tensor] = {}
        block_vec = vec if self.dual_modulation is None else self.dual_modulation(vec)
        for i, block in enumerate(self.transformer_blocks):
            x, text = self._run(block, x, text, block_vec, rope, mask)
            if i in feature_layers:
                features[i] = x
        tokens = x.shape[1]  # fewer than before if diffusers has sharded the sequence
        x = torch.cat([x, text], dim=1)
        block_vec = vec if self.single_modulation is None else self.single_modulation(vec)
        for i, block in enumerate(self.single_transformer_blocks, start=len(self.transformer_blocks)):
            x = self._run(block, x, block_vec, rope, mask)
            if i in feature_layers:
                features[i] = x[:, :tokens]

        scale, shift = self.norm_out(vec).unsqueeze(1).chunk(2, dim=-1)
        sample = self._unpatchify(self.proj_out(modulate(x[:, :tokens], shift, scale)), grid)
        chosen = tuple(features[layer] for layer in feature_layers)
        if not return_dict:
            return (sample, *chosen)
        return Magic141TransformerOutput(sample=sample, features=chosen)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> "Magic141Transformer3DModel":
        """As diffusers does, in float32 unless `dtype` is given; but config and weights must fit each other.

        Raises:
            WeightsMissing: the folder has no config, without which a pruned model cannot be built.
            WeightsCorrupt: the weights are not those of the model that the config describes.
            UnsupportedError: the weights are quantised, and torchao or the device for them is not here.
        """
        check_config(Path(pretrained_model_name_or_path, kwargs.get("subfolder") or ""))
        dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None) or torch.float32
        kwargs |= {"dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
        try:
            model, info = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except ImportError as error:
            raise UnsupportedError(
                f"{error}: these weights need `pip install 'magic141[quantise]'`"
            ) from error
        check_loaded(model, info, pretrained_model_name_or_path)
        if "quantization_config" in model.config:
            from magic141.sparsify.quantise import is_packed, restore

            restore(model, Path(pretrained_model_name_or_path, kwargs.get("subfolder") or ""))
            held = {value.dtype for value in model.parameters() if is_packed(value)} - {dtype}
            if held:
                raise UnsupportedError(
                    f"these weights were quantised from {held.pop()} and compute in it alone: load them with that dtype"
                )
        return model

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As diffusers does; of int4 weights also what they were rounded with (see `magic141.sparsify.quantise`)."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if "quantization_config" in self.config:
            from magic141.sparsify.quantise import save_scales

            save_scales(self, Path(save_directory))

    @classmethod
    def from_hunyuan(cls, model: HunyuanVideoTransformer3DModel) -> "Magic141Transformer3DModel":
        """Convert a diffusers model; the forward passes agree (to 1e-4 in float32, 1e-10 in float64).

        Raises:
            InputError: `model` replaces tokens by the image ("token_replace"), or has no RMS norm of queries.
        """
        config = {name: value for name, value in model.config.items() if not name.startswith("_")}
        if (norm := config.pop("qk_norm")) != "rms_norm":
            raise InputError(f"qk_norm={norm!r} has no counterpart here; only 'rms_norm' has")
        with torch.device("meta"):
            ours = cls(**config)
        shapes = {key: tensor.shape for key, tensor in ours.state_dict().items()}
        ours.load_state_dict(from_hunyuan_state(model.state_dict(), shapes), assign=True)
        return ours.train(model.training)

    def to_hunyuan(self) -> HunyuanVideoTransformer3DModel:
        """The diffusers model with these weights, the inverse of `from_hunyuan`.

        Raises:
            InputError: this model has something that the diffusers class lacks.
        """
        config = {name: value for name, value in self.config.items() if not name.startswith("_")}
        if (kind := config["image_condition_type"]) not in (None, "latent_concat"):
            raise InputError(f"image_condition_type={kind!r} has no counterpart in diffusers")
        plain = {
            "activation_fn": "gelu-approximate",
            "shared_modulation": False,
            "continuation_embed": False,
            "pruned_ratio": 0.0,
            "pruned_mlp_ratio": None,
            "pruned_blocks": None,
        }
        for name, value in plain.items():
            if (found := config.pop(name)) != value:
                raise InputError(f"{name}={found!r} has no counterpart in diffusers; only {value!r} has")
        with torch.device("meta"):
            theirs = HunyuanVideoTransformer3DModel(**config)
        shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
        theirs.load_state_dict(to_hunyuan_state(self.state_dict(), shapes), assign=True)
        return theirs.train(self.training)

    def _run(self, block: nn.Module, *args: Tensor | None) -> Any:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, *args)
        return block(*args)

    def _patchify(self, x: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """(B, C, T, H, W) -> tokens (B, N, C * patch), and the grid of tokens."""
        p, pt = self.config.patch_size, self.config.patch_size_t
        x = x.unflatten(4, (-1, p)).unflatten(3, (-1, p)).unflatten(2, (-1, pt))  # B C t pt h p w p
        grid = (x.shape[2], x.shape[4], x.shape[6])
        return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3), grid

    def _unpatchify(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        p, pt = self.config.patch_size, self.config.patch_size_t
        x = x.unflatten(2, (-1, pt, p, p)).unflatten(1, grid)  # B t h w C pt p p
        return x.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def _check_inputs(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None,
        pooled_projections: Tensor | None,
        guidance: Tensor | None,
        continuation: Tensor | None,
    ) -> None:
        config = self.config
        check_shape("hidden_states", hidden_states, "B", config.in_channels, "T", "H", "W")
        batch = hidden_states.shape[0]
        patch = (config.patch_size_t, config.patch_size, config.patch_size)
        size = tuple(hidden_states.shape[2:])
        if any(n % p or n == 0 for n, p in zip(size, patch, strict=True)):
            raise InputError(f"latent size {size} must be positive multiples of the patch {patch}")
        check_shape("timestep", timestep, batch)
        check_shape("encoder_hidden_states", encoder_hidden_states, batch, "L", config.text_embed_dim)
        if encoder_attention_mask is not None:
            check_shape(
                "encoder_attention_mask", encoder_attention_mask, batch, encoder_hidden_states.shape[1]
            )
        if pooled_projections is None:
            raise InputError("pooled_projections is missing; pass the pooled embedding of the text")
        check_shape("pooled_projections", pooled_projections, batch, config.pooled_projection_dim)
        if config.guidance_embeds:
            if guidance is None:
                raise InputError("this model has guidance_embeds: pass guidance, 1000 x the guidance scale")
            check_shape("guidance", guidance, batch)
        if continuation is not None:
            if self.continuation_embedder is None:
                raise InputError("this model has no continuation_embed; leave continuation out")
            check_shape("continuation", continuation, batch)


def check_shape(name: str, tensor: Tensor, *axes: int | str) -> None:
    """Raise InputError unless `tensor` has these axes; a letter stands for any length."""
    shape = tuple(tensor.shape)
    if len(shape) != len(axes) or any(
        isinstance(want, int) and have != want for have, want in zip(shape, axes, strict=True)
    ):
        raise InputError(f"{name} has shape {shape}, but must have ({', '.join(map(str, axes))})")


def text_mask(mask: Tensor | None, device: torch.device) -> Tensor | None:
    """A bool mask on `device`, or None if it is known without waiting for a device that no token is padding."""
    if mask is None:
        return None
    if mask.device.type == "cpu" and not torch.compiler.is_compiling() and bool(mask.all()):
        return None
    return mask.to(device=device, dtype=torch.bool)
