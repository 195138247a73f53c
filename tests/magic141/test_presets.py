"""The presets contradict neither themselves nor the model."""

from dataclasses import FrozenInstanceError, asdict, fields
from inspect import signature

import pytest
import torch

from magic141.presets import LAB, MAGIC141_13B, PRESETS, Preset, TransformerConfig
from magic141.transformer import Magic141Transformer3DModel

EVERY = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)


def test_config_has_the_arguments_of_the_model_with_the_same_defaults() -> None:
    parameters = dict(signature(Magic141Transformer3DModel.__init__).parameters)
    del parameters["self"]
    assert {field.name: field.default for field in fields(TransformerConfig)} == {
        name: parameter.default for name, parameter in parameters.items()
    }


@EVERY
def test_a_clip_fits_the_model(preset: Preset) -> None:
    channels, frames, height, width = preset.video.latent_shape
    assert (preset.video.num_frames - 1) % preset.video.temporal_compression == 0
    assert preset.transformer.in_channels == channels + channels + 1
    assert preset.transformer.out_channels == channels
    assert frames % preset.transformer.patch_size_t == 0
    assert height % preset.transformer.patch_size == 0
    assert width % preset.transformer.patch_size == 0


@EVERY
def test_the_model_can_be_built(preset: Preset) -> None:
    with torch.device("meta"):
        model = Magic141Transformer3DModel(**asdict(preset.transformer))
    assert tuple(model.config.rope_axes_dim) == preset.transformer.rope_axes_dim


def test_lab_clip_is_144_video_tokens() -> None:
    _, frames, height, width = LAB.video.latent_shape
    assert frames * (height // 2) * (width // 2) == 144


def test_presets_are_found_by_name_and_do_not_change() -> None:
    assert PRESETS == {"lab": LAB, "13b": MAGIC141_13B}
    with pytest.raises(FrozenInstanceError):
        LAB.video.fps = 24  # type: ignore[misc]
