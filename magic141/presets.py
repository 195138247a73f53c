"""The two sizes of the model as plain facts; nothing here imports torch.

A preset is data, not behaviour: `Magic141Transformer3DModel(**asdict(LAB.transformer))` builds the model,
`dataclasses.replace` makes a variant.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Constructor arguments of `Magic141Transformer3DModel`; names and defaults are diffusers'."""

    in_channels: int = 16
    out_channels: int = 16
    num_attention_heads: int = 24
    attention_head_dim: int = 128
    num_layers: int = 20  # dual-stream blocks
    num_single_layers: int = 40  # single-stream blocks
    num_refiner_layers: int = 2
    mlp_ratio: float = 4.0
    activation_fn: str = "gelu-approximate"
    patch_size: int = 2
    patch_size_t: int = 1
    guidance_embeds: bool = False
    text_embed_dim: int = 4096
    pooled_projection_dim: int = 768
    rope_theta: float = 256.0
    rope_axes_dim: tuple[int, int, int] = (16, 56, 56)  # time, height, width; they sum to attention_head_dim
    image_condition_type: str | None = None
    shared_modulation: bool = False
    continuation_embed: bool = False
    pruned_ratio: float = 0.0  # share of heads, hidden units and conditioning that is gone
    pruned_mlp_ratio: float | None = None  # that of hidden units, where it is another
    pruned_blocks: tuple[int, ...] | None = None  # blocks left out, counted through both kinds


@dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """A clip in pixels and in latents. `num_frames` is 4k + 1: latent 0 holds one frame, later ones four."""

    height: int
    width: int
    num_frames: int
    fps: int
    latent_channels: int = 16
    spatial_compression: int = 8
    temporal_compression: int = 4

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(channels, latent frames, latent height, latent width) of one clip."""
        frames = (self.num_frames - 1) // self.temporal_compression + 1
        side = self.spatial_compression
        return (self.latent_channels, frames, self.height // side, self.width // side)


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Defaults of the sampler: Euler steps, and the shift s of `t -> s t / (1 + (s - 1) t)`."""

    num_inference_steps: int
    shift: float


@dataclass(frozen=True, kw_only=True)
class Preset:
    name: str
    transformer: TransformerConfig
    video: VideoConfig
    sampler: SamplerConfig


# in_channels: 16 noisy latent + 16 image latent (zero where unknown) + 1 mask (one where known).
LAB = Preset(
    name="lab",
    transformer=TransformerConfig(
        in_channels=33,
        num_attention_heads=4,
        attention_head_dim=64,
        num_layers=1,
        num_single_layers=4,
        num_refiner_layers=1,
        mlp_ratio=3.0,
        activation_fn="gelu",  # the tanh approximation costs a CPU three times the exact function
        text_embed_dim=128,
        pooled_projection_dim=128,
        rope_axes_dim=(16, 24, 24),
        image_condition_type="latent_concat",
        shared_modulation=True,
        continuation_embed=True,
    ),
    video=VideoConfig(height=64, width=64, num_frames=33, fps=16),
    sampler=SamplerConfig(num_inference_steps=28, shift=3.0),
)

# The paper's size: HunyuanVideo-I2V. The clip is the size that the authors published (5.4 s).
MAGIC141_13B = Preset(
    name="13b",
    transformer=TransformerConfig(in_channels=33, image_condition_type="latent_concat"),
    video=VideoConfig(height=368, width=640, num_frames=129, fps=24),
    sampler=SamplerConfig(num_inference_steps=28, shift=5.0),
)

PRESETS = {preset.name: preset for preset in (LAB, MAGIC141_13B)}
