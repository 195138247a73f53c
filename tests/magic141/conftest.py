"""A pipeline of the real classes, small enough for unit tests, with random weights."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from magic141.autoencoder import AutoencoderMagic141
from magic141.conditioning import make_text_image_model, make_tokenizer
from magic141.pipeline import Magic141Pipeline
from magic141.presets import LAB
from magic141.scheduler import FlowMatchScheduler
from magic141.transformer import Magic141Transformer3DModel


def make_pipeline() -> Magic141Pipeline:
    torch.manual_seed(0)
    config = replace(
        LAB.transformer,
        num_attention_heads=2,
        attention_head_dim=16,
        num_single_layers=1,
        rope_axes_dim=(4, 6, 6),
    )
    pipe = Magic141Pipeline(
        transformer=Magic141Transformer3DModel(**asdict(config)).eval(),
        vae=AutoencoderMagic141(
            width=16, fine_width=8, encoder_blocks=1, decoder_blocks=1, fine_blocks=1
        ).eval(),
        text_encoder=make_text_image_model().eval(),
        tokenizer=make_tokenizer(),
        scheduler=FlowMatchScheduler(),
    )
    for (
        parameter
    ) in pipe.transformer.parameters():  # modulations start at zero, which would hide what they do
        torch.nn.init.normal_(parameter, std=0.1)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe() -> Magic141Pipeline:
    return make_pipeline()


@pytest.fixture(scope="session")
def saved_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `make_pipeline()`, not sealed. Tests must not change it."""
    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    make_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def seeded() -> Callable[[int], torch.Generator]:
    return lambda seed: torch.Generator().manual_seed(seed)
