"""What tests of training share."""

import pytest
import torch

from magic141.transformer import Magic141Transformer3DModel


@pytest.fixture
def dense() -> Magic141Transformer3DModel:
    """A tiny transformer of the lab's conditions, its weights far from zero."""
    torch.manual_seed(0)
    model = Magic141Transformer3DModel(
        in_channels=33,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        activation_fn="gelu",
        text_embed_dim=128,
        pooled_projection_dim=128,
        rope_axes_dim=(4, 6, 6),
        shared_modulation=True,
        continuation_embed=True,
    )
    for parameter in model.parameters():
        parameter.data += torch.randn(parameter.shape) * 0.2
    return model.eval()
