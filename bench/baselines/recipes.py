"""Published text-to-video systems as facts: configuration, sampling recipe, size, and where each is written.

Plain data, no torch. Class names are diffusers'; configurations name what differs from the class's own defaults,
which are those of the first checkpoint of each family. Where sources differ, the citation names the one that is
followed and what the other says; files are those of the repository named before them. "Secondary" marks a figure
that was read where others quote it, not in the original.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Family = Literal["magic141", "hunyuan", "wan", "ltx", "ltx2", "cogvideox"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One system. Sizes are those of one clip; `compression` is (time, height, width) of the VAE and `patch` of the
    transformer in latents. `passes_per_step` counts forward passes of one clip, guidance included.

    `prompt_template` says what the pipeline itself puts around a prompt; `negative_prompt` is what guidance points away
    from by default, and is asked for with real weights alone.

    `claimed` is the publication's own words for its size, which round. `checkpoint_parameters` is the exact count of
    one denoiser's published weights, and `parameters_source` says where it was read.
    """

    name: str
    family: Family
    pipeline: str
    transformer: str
    vae: str
    scheduler: str
    hub: str
    transformer_config: Mapping[str, Any] = field(default_factory=dict)
    vae_config: Mapping[str, Any] = field(default_factory=dict)
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)
    pipeline_config: Mapping[str, Any] = field(default_factory=dict)
    num_transformers: int = 1
    image_to_video: bool = False
    num_inference_steps: int
    guidance_scale: float
    passes_per_step: int
    height: int
    width: int
    num_frames: int
    fps: int
    compression: tuple[int, int, int]
    patch: tuple[int, int, int]
    text_encoder: str
    text_tokens: int
    text_width: int
    call: Mapping[str, Any] = field(default_factory=dict)
    timestep_per_token: bool = False
    audio_tokens_per_second: float = 0.0
    prompt_template: str = "none: the prompt as it is"
    negative_prompt: str = ""
    claimed: str
    claimed_parameters: float
    checkpoint_parameters: int
    parameters_source: str
    citation: str

    def video_tokens(self, height: int, width: int, num_frames: int) -> int:
        """Tokens of one clip. Sides that are no multiple are cut, as the pipelines do."""
        t, h, w = self.compression
        latents = ((num_frames - 1) // t + 1, height // h, width // w)
        return (latents[0] // self.patch[0]) * (latents[1] // self.patch[1]) * (latents[2] // self.patch[2])

    def timesteps(self, video_tokens: int) -> int:
        """How many times a pass is told: of every token, of the given frame and the others, or one for all."""
        if self.timestep_per_token:
            return video_tokens
        return 2 if self.transformer_config.get("image_condition_type") == "token_replace" else 1

    def audio_tokens(self, num_frames: int) -> int:
        return round(num_frames / self.fps * self.audio_tokens_per_second)


_HUNYUAN: dict[str, Any] = {
    "family": "hunyuan",
    "transformer": "HunyuanVideoTransformer3DModel",
    "vae": "AutoencoderKLHunyuanVideo",
    "scheduler": "FlowMatchEulerDiscreteScheduler",
    "scheduler_config": {"shift": 7.0},
    "num_inference_steps": 50,
    "guidance_scale": 6.0,
    "passes_per_step": 1,  # the scale is embedded: guidance is distilled
    "height": 720,
    "width": 1280,
    "num_frames": 129,
    "fps": 24,
    "compression": (4, 8, 8),
    "patch": (1, 2, 2),
    "text_width": 4096,
    "claimed": "over 13 billion parameters",
    "claimed_parameters": 13e9,
    "checkpoint_parameters": 12_821_012_544,
    "prompt_template": "the pipeline's: a system prompt asks Llama for a description in five aspects",
}
_WAN: dict[str, Any] = {
    "family": "wan",
    # `sample_neg_prompt` of wan/configs/shared_config.py, in both repositories
    "negative_prompt": (
        "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，"
        "残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，"
        "三条腿，背景人很多，倒着走"
    ),
    "pipeline": "WanPipeline",
    "transformer": "WanTransformer3DModel",
    "vae": "AutoencoderKLWan",
    "scheduler": "UniPCMultistepScheduler",
    "passes_per_step": 2,
    "compression": (4, 8, 8),
    "patch": (1, 2, 2),
    "text_encoder": "umT5-XXL",
    "text_tokens": 512,
    "text_width": 4096,
}
_WAN_SCHEDULER = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "num_train_timesteps": 1000}
_LTX: dict[str, Any] = {
    # of the examples in diffusers' LTX and LTX-2 pipelines
    "negative_prompt": "worst quality, inconsistent motion, blurry, jittery, distorted",
    "scheduler": "FlowMatchEulerDiscreteScheduler",
    "scheduler_config": {
        "use_dynamic_shifting": True,
        "base_shift": 0.95,
        "max_shift": 2.05,
        "base_image_seq_len": 1024,
        "max_image_seq_len": 4096,
        "shift_terminal": 0.1,
    },
    "guidance_scale": 3.0,
    "fps": 24,
    "compression": (8, 32, 32),
    "patch": (1, 1, 1),
}
_COGVIDEOX: dict[str, Any] = {
    "family": "cogvideox",
    "pipeline": "CogVideoXPipeline",
    "transformer": "CogVideoXTransformer3DModel",
    "vae": "AutoencoderKLCogVideoX",
    "num_inference_steps": 50,
    "guidance_scale": 6.0,
    "passes_per_step": 2,
    "height": 480,
    "width": 720,
    "num_frames": 49,
    "fps": 8,
    "compression": (4, 8, 8),
    "patch": (1, 2, 2),
    "text_encoder": "T5 v1.1 XXL",
    "text_tokens": 226,
    "text_width": 4096,
}
_COGVIDEOX_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}

_ALL = (
    Recipe(
        **_HUNYUAN,
        name="hunyuanvideo",
        pipeline="HunyuanVideoPipeline",
        hub="hunyuanvideo-community/HunyuanVideo",
        text_encoder="Llama 3 8B (LLaVA), CLIP-L pooled",
        text_tokens=256,
        parameters_source="the hub's tensors as users count them (secondary); the hub lists 25.6 GB of bfloat16",
        citation="arXiv 2412.03603; recipe: Tencent/HunyuanVideo, hyvideo/config.py, hyvideo/constants.py (template), "
        "sample_video.py (fps); configuration: defaults of diffusers' transformer",
    ),
    Recipe(
        **_HUNYUAN,
        name="hunyuanvideo-i2v",
        pipeline="HunyuanVideoImageToVideoPipeline",
        hub="hunyuanvideo-community/HunyuanVideo-I2V",
        transformer_config={"image_condition_type": "token_replace"},
        image_to_video=True,
        text_encoder="LLaVA (Llama 3 8B), CLIP-L pooled",
        text_tokens=400,  # 256 of text, and every fourth of 576 of the image
        parameters_source="the hub's tensors as users count them (secondary)",
        citation="arXiv 2412.03603; recipe: Tencent/HunyuanVideo-I2V, README.md, its stable mode (the high-dynamic one "
        "has shift 17), sample_image2video.py (fps), hyvideo/constants.py (template), hyvideo/inference.py (image "
        "tokens); configuration: diffusers' image-to-video pipeline",
    ),
    Recipe(
        **_WAN,
        name="wan-2.1-1.3b",
        hub="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        transformer_config={"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
        scheduler_config={**_WAN_SCHEDULER, "flow_shift": 8.0},
        num_inference_steps=50,
        guidance_scale=6.0,
        height=480,
        width=832,
        num_frames=81,
        fps=16,
        claimed="1.3B",
        claimed_parameters=1.3e9,
        checkpoint_parameters=1_418_996_800,
        parameters_source="the hub's metadata and its file of 5,676,070,424 bytes, float32 and header (secondary)",
        citation="arXiv 2503.20314; recipe: Wan-Video/Wan2.1, README.md (size, guidance 6, shift 8 for 1.3B), "
        "generate.py (steps, frames), wan/configs/shared_config.py (fps, text), wan/configs/wan_t2v_1_3B.py",
    ),
    Recipe(
        **_WAN,
        name="wan-2.1-14b",
        hub="Wan-AI/Wan2.1-T2V-14B-Diffusers",
        scheduler_config={**_WAN_SCHEDULER, "flow_shift": 5.0},
        num_inference_steps=50,
        guidance_scale=5.0,
        height=720,
        width=1280,
        num_frames=81,
        fps=16,
        claimed="14B",
        claimed_parameters=14e9,
        checkpoint_parameters=14_288_491_584,
        parameters_source="the hub's metadata of its float32 safetensors (secondary)",
        citation="arXiv 2503.20314; recipe: Wan-Video/Wan2.1, README.md (720p, shift 5), generate.py (steps, guidance, "
        "frames), wan/configs/shared_config.py (fps, text), wan/configs/wan_t2v_14B.py",
    ),
    Recipe(
        **_WAN,
        name="wan-2.2-a14b",
        hub="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        num_transformers=2,
        scheduler_config={**_WAN_SCHEDULER, "flow_shift": 12.0},
        pipeline_config={"boundary_ratio": 0.875},
        num_inference_steps=40,
        guidance_scale=4.0,
        call={"guidance_scale_2": 3.0},
        height=720,
        width=1280,
        num_frames=81,
        fps=16,
        claimed="27B in two experts, 14B active a step",
        claimed_parameters=14e9,
        checkpoint_parameters=14_288_491_584,
        parameters_source="index of each expert on the hub: 57,153,966,336 bytes of float32 (secondary)",
        citation="arXiv 2503.20314; recipe: Wan-Video/Wan2.2, wan/configs/wan_t2v_A14B.py (steps, guidance, shift, "
        "boundary), wan/configs/shared_config.py (frames, fps, text), README.md (size)",
    ),
    Recipe(
        **_WAN
        | {
            "compression": (4, 16, 16),
            "transformer_config": {
                "num_attention_heads": 24,
                "ffn_dim": 14336,
                "num_layers": 30,
                "in_channels": 48,
                "out_channels": 48,
            },
        },
        name="wan-2.2-ti2v-5b",
        hub="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        vae_config={
            "base_dim": 160,
            "decoder_base_dim": 256,
            "z_dim": 48,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "is_residual": True,
            "scale_factor_spatial": 16,
            "latents_mean": (0.0,) * 48,  # statistics of trained latents: random weights have none
            "latents_std": (1.0,) * 48,
        },
        scheduler_config={**_WAN_SCHEDULER, "flow_shift": 5.0},
        pipeline_config={"expand_timesteps": True},
        timestep_per_token=True,
        num_inference_steps=50,
        guidance_scale=5.0,
        height=704,
        width=1280,
        num_frames=121,
        fps=24,
        claimed="5B",
        claimed_parameters=5e9,
        checkpoint_parameters=4_999_787_712,
        parameters_source="index on the hub: 19,999,150,848 bytes of float32 (secondary)",
        citation="recipe: Wan-Video/Wan2.2, wan/configs/wan_ti2v_5B.py (steps, guidance, shift, frames, fps), "
        "README.md (16×16×4 VAE, 1280×704); configuration: diffusers' conversion script",
    ),
    Recipe(
        **_LTX,
        name="ltx-video-2b",
        family="ltx",
        pipeline="LTXPipeline",
        transformer="LTXVideoTransformer3DModel",
        vae="AutoencoderKLLTXVideo",
        hub="Lightricks/LTX-Video",
        num_inference_steps=50,
        passes_per_step=2,
        height=480,
        width=704,
        num_frames=161,
        text_encoder="T5 v1.1 XXL",
        text_tokens=128,
        text_width=4096,
        claimed="1.9B",
        claimed_parameters=1.9e9,
        checkpoint_parameters=1_923_385_472,
        parameters_source="a-r-r-o-w/finetrainers, docs/training/ltx_video.md, parameters of full fine-tuning; the hub "
        "lists 4.94 and 2.75 GB of float32",
        citation="arXiv 2501.00103; recipe: example and defaults of diffusers' pipeline (Lightricks/LTX-Video, "
        "configs/ltxv-2b-0.9.yaml: the same guidance, 40 steps, and a third pass of skipped attention, which that "
        "pipeline lacks); shift: ltx_video/schedulers/rf.py; configuration: diffusers' script for 0.9.0",
    ),
    Recipe(
        **_LTX,
        name="ltx-2",
        family="ltx2",
        pipeline="LTX2Pipeline",
        transformer="LTX2VideoTransformer3DModel",
        vae="AutoencoderKLLTX2Video",
        vae_config={
            "decoder_causal": False,
            "spatial_compression_ratio": 32,
            "temporal_compression_ratio": 8,
        },
        hub="Lightricks/LTX-2",
        num_inference_steps=40,
        passes_per_step=4,  # with and without text, skipped attention, modalities apart
        call={"spatio_temporal_guidance_blocks": [29]},
        height=512,
        width=768,
        num_frames=121,
        text_encoder="Gemma 3 12B",
        text_tokens=1024,
        text_width=3840 * 49,
        audio_tokens_per_second=25.0,
        claimed="19B: 14B of video and 5B of audio",
        claimed_parameters=19e9,
        checkpoint_parameters=18_876_174_592,
        parameters_source="the hub's metadata as unslothai/unsloth, model-catalog.ts, has it (secondary)",
        citation="arXiv 2601.03233; recipe: Lightricks/LTX-2, packages/ltx-pipelines, utils/constants.py, LTX_2_PARAMS "
        "(diffusers' defaults, 30 steps and block 28, are LTX-2.3's); packages/ltx-core, components/schedulers.py "
        "(shift), README.md (audio tokens); configuration: defaults of diffusers' transformer",
    ),
    Recipe(
        **_COGVIDEOX,
        name="cogvideox-2b",
        hub="THUDM/CogVideoX-2b",
        scheduler="CogVideoXDDIMScheduler",
        scheduler_config={**_COGVIDEOX_SCHEDULER, "snr_shift_scale": 3.0},
        claimed="2B",
        claimed_parameters=2e9,
        checkpoint_parameters=1_693_783_872,
        parameters_source="the hub's tensors as a user counts them (secondary); the hub lists 3.39 GB of float16",
        citation="arXiv 2408.06072; recipe: THUDM/CogVideo, README.md (size, frames, fps, text), inference/cli_demo.py "
        "(steps, guidance, DDIM for 2B); schedule: sat/configs/cogvideox_2b.yaml, the hub's scheduler_config.json; "
        "configuration: diffusers' conversion script",
    ),
    Recipe(
        **_COGVIDEOX,
        name="cogvideox-5b",
        hub="THUDM/CogVideoX-5b",
        transformer_config={
            "num_layers": 42,
            "num_attention_heads": 48,
            "use_rotary_positional_embeddings": True,
        },
        vae_config={"scaling_factor": 0.7},
        scheduler="CogVideoXDPMScheduler",
        scheduler_config={**_COGVIDEOX_SCHEDULER, "snr_shift_scale": 1.0},
        call={"use_dynamic_cfg": True},
        claimed="5B",
        claimed_parameters=5e9,
        checkpoint_parameters=5_570_283_072,
        parameters_source="finetrainers' page on CogVideoX, parameters of full fine-tuning (secondary: from a copy); "
        "the hub lists 9.93 and 1.22 GB of bfloat16",
        citation="arXiv 2408.06072; recipe: THUDM/CogVideo, README.md (size, frames, fps, text), inference/cli_demo.py "
        "(steps, guidance, DPM with dynamic guidance for 5B); schedule: sat/configs/cogvideox_5b.yaml; configuration: "
        "diffusers' conversion script",
    ),
)
RECIPES = {recipe.name: recipe for recipe in _ALL}
