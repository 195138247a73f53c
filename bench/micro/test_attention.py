"""Attention of the lab transformer, norm and rotation of queries and keys included."""

import pytest
import torch

from bench.micro.conftest import Timed
from magic141.attention import Attention, QKNorm, RotaryEmbedding
from magic141.presets import LAB

GRID = (9, 4, 4)
TEXT_TOKENS = 40


@pytest.mark.parametrize("batch", [1, 2])
def test_attention(priced: Timed, batch: int) -> None:
    config = LAB.transformer
    heads, width = config.num_attention_heads, config.attention_head_dim
    tokens = GRID[0] * GRID[1] * GRID[2] + TEXT_TOKENS
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(batch, tokens, 3, heads, width, generator=generator)
    rope = RotaryEmbedding(config.rope_axes_dim, config.rope_theta)(GRID, torch.device("cpu"))
    norm, attention = QKNorm(width), Attention()
    priced(
        lambda: attention(*norm(qkv, rope)),
        100,
        tokens=batch * tokens,
        bytes=qkv.nbytes + qkv.nbytes // 3,
    )
