"""Our forward pass against diffusers', same weights, same inputs."""

from dataclasses import asdict, replace

import pytest
import torch
from diffusers import HunyuanVideoTransformer3DModel
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.conftest import Paired
from magic141.presets import LAB, TransformerConfig
from magic141.transformer import Magic141Transformer3DModel

# The lab's size with the architecture that diffusers has, and one in the middle with about a thousand tokens.
LAB_SIZE = replace(
    LAB.transformer, activation_fn="gelu-approximate", shared_modulation=False, continuation_embed=False
)
MID_SIZE = replace(
    LAB_SIZE,
    num_attention_heads=8,
    num_layers=4,
    num_single_layers=8,
    num_refiner_layers=2,
    mlp_ratio=4.0,
    text_embed_dim=512,
)
SIZES = {  # config, batch, latent (t, h, w), text tokens, rounds
    "lab": (LAB_SIZE, 2, (9, 8, 8), 56, 60),
    "mid": (MID_SIZE, 1, (9, 16, 28), 64, 12),
}


def pair(config: TransformerConfig) -> tuple[Magic141Transformer3DModel, HunyuanVideoTransformer3DModel]:
    generator = torch.Generator().manual_seed(0)
    ours = Magic141Transformer3DModel(**asdict(config))
    for parameter in ours.parameters():  # zeros, which it has when new, could be faster than numbers
        parameter.data.normal_(std=0.02, generator=generator)
    return ours, ours.to_hunyuan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", SIZES)
def test_forward_pass(paired: Paired, benchmark: BenchmarkFixture, size: str, dtype: torch.dtype) -> None:
    config, batch, latent, length, rounds = SIZES[size]
    ours, theirs = (torch.nn.Module.to(model, dtype).eval() for model in pair(config))
    generator = torch.Generator().manual_seed(0)
    arguments = {
        "hidden_states": torch.randn(batch, config.in_channels, *latent, generator=generator).to(dtype),
        "timestep": torch.full((batch,), 500.0),
        "encoder_hidden_states": torch.randn(batch, length, config.text_embed_dim, generator=generator).to(
            dtype
        ),
        "encoder_attention_mask": torch.ones(batch, length),
        "pooled_projections": torch.randn(batch, config.pooled_projection_dim, generator=generator).to(dtype),
    }
    with torch.inference_mode():
        torch.testing.assert_close(ours(**arguments).sample, theirs(**arguments).sample, atol=0.05, rtol=0.05)
    benchmark.extra_info |= {
        "tokens": batch * (latent[0] * latent[1] * latent[2] // 4 + length),
        "bytes": sum(parameter.nbytes for parameter in ours.parameters()),
    }
    paired(
        f"ours / diffusers, {size}, {dtype}, batch {batch}",
        lambda: ours(**arguments),
        lambda: theirs(**arguments),
        rounds,
    )
