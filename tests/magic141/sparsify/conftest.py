"""A transformer with four heads a block, weights everywhere, and batches to calibrate it on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from magic141.sparsify import Calibration
from magic141.transformer import Magic141Transformer3DModel

CONFIG: dict[str, Any] = {
    "in_channels": 9,
    "out_channels": 4,
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "num_refiner_layers": 1,
    "mlp_ratio": 2.0,
    "activation_fn": "gelu",
    "text_embed_dim": 6,
    "pooled_projection_dim": 5,
    "rope_axes_dim": (4, 6, 6),
    "shared_modulation": True,
}


def make_model(**changes: Any) -> Magic141Transformer3DModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Magic141Transformer3DModel(**(CONFIG | changes))
        for parameter in model.parameters():
            parameter.data += torch.randn(parameter.shape) * 0.1
    return model.eval()


def make_inputs(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(2, 9, 2, 4, 4, generator=generator).to(dtype),
        "timestep": torch.rand(2, generator=generator) * 1000,
        "encoder_hidden_states": torch.randn(2, 3, 6, generator=generator).to(dtype),
        "pooled_projections": torch.randn(2, 5, generator=generator).to(dtype),
    }


@pytest.fixture
def model() -> Magic141Transformer3DModel:
    return make_model()


@pytest.fixture
def own_modulation() -> Magic141Transformer3DModel:
    """As the 13B preset: every block has a modulation network of its own."""
    return make_model(shared_modulation=False)


@pytest.fixture
def velocity() -> Callable[[Magic141Transformer3DModel], Tensor]:
    """What a model says about a fixed batch."""

    def run(of: Magic141Transformer3DModel) -> Tensor:
        with torch.no_grad():
            return of(**make_inputs(dtype=of.dtype)).sample

    return run


@pytest.fixture
def calibration() -> Calibration:
    return [
        lambda model, seed=seed: model(**make_inputs(seed, model.dtype)).sample.square().mean()
        for seed in (1, 2)
    ]
