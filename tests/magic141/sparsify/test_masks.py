"""Masks keep the largest weights and the size of the model."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from magic141.errors import InputError, UnsupportedError
from magic141.sparsify.groups import layers
from magic141.sparsify.masks import largest, mask_n_of_four, mask_unstructured, pack_semi_structured
from magic141.sparsify.memory import parameter_bytes
from magic141.transformer import Magic141Transformer3DModel

RATIOS = pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 0.75])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(rows=st.integers(1, 5), groups=st.integers(1, 5), keep=st.integers(1, 4), seed=st.integers(0, 999))
def test_of_every_4_consecutive_weights_the_largest_stay(
    rows: int, groups: int, keep: int, seed: int
) -> None:
    weight = torch.randn(rows, 4 * groups, generator=torch.Generator().manual_seed(seed))
    mask = largest(weight, keep).view(-1, 4)
    assert (mask.sum(1) == keep).all()
    values = weight.abs().view(-1, 4)
    smallest_kept = values.masked_fill(~mask, float("inf")).min(1).values
    largest_lost = values.masked_fill(mask, 0).max(1).values
    assert (smallest_kept >= largest_lost).all()


@RATIOS
def test_n_of_four_leaves_zeros_in_every_group_of_every_layer(
    model: Magic141Transformer3DModel, ratio: float
) -> None:
    dense = [layer.weight.clone() for layer in layers(model)]
    mask_n_of_four(model, ratio)
    for layer, before in zip(layers(model), dense, strict=True):
        assert ((layer.weight == 0).view(-1, 4).sum(1) >= 4 * ratio).all()
        assert torch.equal(layer.weight[layer.weight != 0], before[layer.weight != 0])


@RATIOS
def test_unstructured_keeps_the_largest_of_each_layer(
    model: Magic141Transformer3DModel, ratio: float
) -> None:
    dense = [layer.weight.clone() for layer in layers(model)]
    mask_unstructured(model, ratio)
    for layer, before in zip(layers(model), dense, strict=True):
        lost = layer.weight == 0
        assert lost.sum() == round(ratio * lost.numel())
        if ratio:
            assert before[lost].abs().max() <= before[~lost].abs().min()
        assert torch.equal(layer.weight[~lost], before[~lost])


@pytest.mark.parametrize("mask", [mask_unstructured, mask_n_of_four])
def test_a_masked_model_is_as_large_as_before(
    model: Magic141Transformer3DModel,
    velocity: Callable[[Magic141Transformer3DModel], Tensor],
    mask: Callable[[Magic141Transformer3DModel, float], None],
) -> None:
    size, keys, before = parameter_bytes(model), set(model.state_dict()), velocity(model)
    mask(model, 0.5)
    assert parameter_bytes(model) == size
    assert set(model.state_dict()) == keys
    assert (velocity(model) - before).abs().max() > 1e-3


def test_bad_ratios_are_refused(model: Magic141Transformer3DModel) -> None:
    for ratio in (-0.25, 1.0, float("nan")):
        with pytest.raises(InputError, match=r"must lie in \[0, 1\)"):
            mask_unstructured(model, ratio)
    for ratio in (-0.25, 0.3, 1.0):
        with pytest.raises(InputError, match="must be 0, 0.25, 0.5 or 0.75"):
            mask_n_of_four(model, ratio)


def test_without_a_gpu_2_of_4_kernels_are_unsupported_and_nothing_is_masked(
    model: Magic141Transformer3DModel,
) -> None:
    with pytest.raises(UnsupportedError, match="the model is on cpu: .* use kind 'n:m'"):
        pack_semi_structured(model)
    assert all(layer.weight.all() for layer in layers(model))


@pytest.mark.gpu
def test_2_of_4_kernels_say_what_the_masked_model_says(model: Magic141Transformer3DModel) -> None:
    from copy import deepcopy

    packed = model.to("cuda", torch.float16)
    with pytest.raises(UnsupportedError, match="float16 and bfloat16"):
        pack_semi_structured(deepcopy(model).float())
    masked = deepcopy(packed)
    mask_n_of_four(masked, 0.5)
    pack_semi_structured(packed)
    x = torch.randn(64, 64, device="cuda", dtype=torch.float16)
    found, expected = (of.transformer_blocks[0].video.to_qkv(x) for of in (packed, masked))
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-2)
    assert parameter_bytes(packed) < parameter_bytes(masked)
