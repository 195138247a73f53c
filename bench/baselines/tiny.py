"""The peers at test scale: the same classes with a few channels, and text encoders that nobody has to download."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WIDTH = 32
"""Of tiny text encoders."""
TOKENS = 16


@dataclass(frozen=True)
class Tiny:
    """Configurations that replace the published ones, and the clip (height, width, frames) that they are asked for."""

    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    size: tuple[int, int, int]
    text_width: int = WIDTH
    call: Mapping[str, Any] = field(default_factory=dict)


_HUNYUAN_TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_refiner_layers": 1,
    "text_embed_dim": WIDTH,
    "pooled_projection_dim": WIDTH,
    "rope_axes_dim": (4, 4, 4),
}
_HUNYUAN_VAE = {
    "block_out_channels": (8, 8, 8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
_WAN_TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "ffn_dim": 48,
    "num_layers": 2,
    "text_dim": WIDTH,
    "freq_dim": 32,
}
_WAN_VAE = {"base_dim": 4, "decoder_base_dim": 4, "num_res_blocks": 1}
_COGVIDEOX_TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "time_embed_dim": 16,
    "text_embed_dim": WIDTH,
    "max_text_seq_length": TOKENS,
    "sample_width": 4,
    "sample_height": 4,
    "sample_frames": 9,
}
_COGVIDEOX_VAE = {
    "block_out_channels": (8, 8, 8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_height": 32,
    "sample_width": 32,
}
_LTX_VAE = {
    "block_out_channels": (8, 8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8, 8),
    "layers_per_block": (1, 1, 1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1, 1, 1),
    "latent_channels": 8,
}
_LTX2_VAE = {
    "block_out_channels": (8, 16, 32, 64),
    "decoder_block_out_channels": (8, 16, 32),
    "layers_per_block": (1, 1, 1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1, 1),
    "latent_channels": 8,
}
_LTX2_TRANSFORMER = {
    "in_channels": 8,
    "out_channels": 8,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "cross_attention_dim": 32,
    "audio_in_channels": 8,
    "audio_out_channels": 8,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 8,
    "audio_cross_attention_dim": 16,
    "num_layers": 2,
    "caption_channels": WIDTH,
}
LTX2_PARTS: dict[str, dict[str, Any]] = {
    "connectors": {
        "caption_channels": WIDTH,
        "text_proj_in_factor": 2,
        "video_connector_num_attention_heads": 2,
        "video_connector_attention_head_dim": 16,
        "video_connector_num_layers": 1,
        "video_connector_num_learnable_registers": None,
        "audio_connector_num_attention_heads": 2,
        "audio_connector_attention_head_dim": 16,
        "audio_connector_num_layers": 1,
        "audio_connector_num_learnable_registers": None,
    },
    "audio_vae": {
        "base_channels": 8,
        "ch_mult": (1, 2, 4),
        "num_res_blocks": 1,
        "latent_channels": 2,
        "mel_bins": 16,
        "resolution": 32,
    },
    "vocoder": {
        "in_channels": 32,
        "hidden_channels": 16,
        "upsample_kernel_sizes": [4, 4],
        "upsample_factors": [2, 2],
        "resnet_kernel_sizes": [3],
        "resnet_dilations": [[1, 3, 5]],
    },
}

TINY: dict[str, Tiny] = {
    "hunyuanvideo": Tiny(_HUNYUAN_TRANSFORMER, _HUNYUAN_VAE, (32, 32, 5)),
    "hunyuanvideo-i2v": Tiny(_HUNYUAN_TRANSFORMER, _HUNYUAN_VAE, (32, 32, 5)),
    "wan-2.1-1.3b": Tiny(_WAN_TRANSFORMER, _WAN_VAE, (32, 32, 5)),
    "wan-2.1-14b": Tiny(_WAN_TRANSFORMER, _WAN_VAE, (32, 32, 5)),
    "wan-2.2-a14b": Tiny(_WAN_TRANSFORMER, _WAN_VAE, (32, 32, 5)),
    "wan-2.2-ti2v-5b": Tiny(_WAN_TRANSFORMER, _WAN_VAE, (32, 32, 5)),
    "ltx-video-2b": Tiny(
        {
            "in_channels": 8,
            "out_channels": 8,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "cross_attention_dim": 32,
            "num_layers": 2,
            "caption_channels": WIDTH,
        },
        _LTX_VAE,
        (64, 64, 9),
    ),
    "ltx-2": Tiny(
        _LTX2_TRANSFORMER,
        _LTX2_VAE,
        (64, 64, 9),
        text_width=WIDTH * 2,
        call={"spatio_temporal_guidance_blocks": [1]},
    ),
    "cogvideox-2b": Tiny(_COGVIDEOX_TRANSFORMER, _COGVIDEOX_VAE, (32, 32, 9)),
    "cogvideox-5b": Tiny(_COGVIDEOX_TRANSFORMER, _COGVIDEOX_VAE, (32, 32, 9)),
}


def tokenizer() -> Any:
    """Bytes are tokens, and one more pads: any prompt has tokens, and no vocabulary is needed."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(["<pad>", *alphabet])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", model_max_length=TOKENS)


def t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=300, d_model=WIDTH, d_kv=8, d_ff=64, num_layers=1, num_heads=2)
    ).eval()


def umt5() -> Any:
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(
        UMT5Config(vocab_size=300, d_model=WIDTH, d_kv=8, d_ff=64, num_layers=1, num_heads=2)
    ).eval()


def llama() -> Any:
    from transformers import LlamaConfig, LlamaModel

    return LlamaModel(
        LlamaConfig(
            vocab_size=300,
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=3,  # the pipeline reads the third from the end
            num_attention_heads=2,
        )
    ).eval()


def clip() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=300,
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=77,
            projection_dim=WIDTH,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    ).eval()
