"""The cost of decoding a clip in denoising steps of the lab transformer."""

from dataclasses import asdict

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.conftest import Paired
from magic141.autoencoder import AutoencoderMagic141
from magic141.presets import LAB
from magic141.transformer import Magic141Transformer3DModel

TOKENS = 56  # 16 of the image, 40 of the text


@pytest.mark.parametrize(("batch", "name"), [(2, "guided"), (1, "unguided")])
def test_decoding_a_clip_in_denoising_steps(
    paired: Paired, benchmark: BenchmarkFixture, batch: int, name: str
) -> None:
    config = LAB.transformer
    generator = torch.Generator().manual_seed(0)
    transformer = Magic141Transformer3DModel(**asdict(config)).eval()
    autoencoder = AutoencoderMagic141().eval()
    for model in (transformer, autoencoder):
        for parameter in model.parameters():
            parameter.data.normal_(std=0.02, generator=generator)
    latents = torch.randn(1, *LAB.video.latent_shape, generator=generator)
    arguments = {
        "hidden_states": torch.randn(
            batch, config.in_channels, *LAB.video.latent_shape[1:], generator=generator
        ),
        "timestep": torch.full((batch,), 500.0),
        "encoder_hidden_states": torch.randn(batch, TOKENS, config.text_embed_dim, generator=generator),
        "pooled_projections": torch.randn(batch, config.pooled_projection_dim, generator=generator),
    }
    benchmark.extra_info |= {
        "tokens": latents.shape[2] * latents.shape[3] * latents.shape[4],
        "bytes": sum(parameter.nbytes for parameter in autoencoder.parameters()),
    }
    paired(
        f"decoding {LAB.video.num_frames} frames in {name} denoising steps, float32",
        lambda: autoencoder.decode(latents),
        lambda: transformer(**arguments),
        40,
    )
