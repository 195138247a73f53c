"""Parity with diffusers' HunyuanVideo class: outputs, gradients, and weights both ways."""

from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from diffusers import HunyuanVideoTransformer3DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from magic141.errors import InputError
from magic141.hunyuan import to_hunyuan_state
from magic141.presets import LAB, MAGIC141_13B
from magic141.transformer import Magic141Transformer3DModel

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    axes = draw(st.tuples(*[st.sampled_from((2, 4, 6))] * 3))
    image_condition_type = draw(st.sampled_from((None, "latent_concat")))
    out_channels = draw(st.integers(1, 4))
    return {
        "in_channels": 2 * out_channels + 1 if image_condition_type else out_channels,
        "out_channels": out_channels,
        "num_attention_heads": draw(st.integers(1, 3)),
        "attention_head_dim": sum(axes),
        "num_layers": draw(st.integers(0, 2)),
        "num_single_layers": draw(st.integers(0, 2)),
        "num_refiner_layers": draw(st.integers(0, 2)),
        "mlp_ratio": draw(st.sampled_from((1.0, 2.5, 4.0))),
        "patch_size": draw(st.integers(1, 2)),
        "patch_size_t": draw(st.integers(1, 2)),
        "guidance_embeds": draw(st.booleans()),
        "text_embed_dim": draw(st.integers(1, 9)),
        "pooled_projection_dim": draw(st.integers(1, 9)),
        "rope_theta": draw(st.sampled_from((100.0, 256.0))),
        "rope_axes_dim": axes,
        "image_condition_type": image_condition_type,
    }


@st.composite
def shapes(draw: st.DrawFn) -> tuple[tuple[int, int, int], list[int]]:
    """A grid of tokens, and the text length of each sample of the batch."""
    grid = draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)))
    return grid, draw(st.lists(st.integers(1, 8), min_size=1, max_size=3))


def reference(config: dict[str, Any], seed: int = 0) -> HunyuanVideoTransformer3DModel:
    """A diffusers model whose every weight matters: its own initialisation leaves norms at one."""
    generator = torch.Generator().manual_seed(seed)
    model = HunyuanVideoTransformer3DModel(**config)
    for name, parameter in model.named_parameters():
        parameter.data.normal_(1 if name.endswith("norm_q.weight") else 0, 0.2, generator=generator)
    return model


def inputs(
    config: dict[str, Any], grid: tuple[int, int, int], lengths: list[int], dtype: torch.dtype, seed: int = 0
) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    batch, longest = len(lengths), max(lengths) + 1

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, generator=generator)

    patch = (config["patch_size_t"], config["patch_size"], config["patch_size"])
    size = [n * p for n, p in zip(grid, patch, strict=True)]
    return {
        "hidden_states": noise(batch, config["in_channels"], *size),
        "timestep": torch.rand(batch, dtype=dtype, generator=generator) * 1000,
        "encoder_hidden_states": noise(batch, longest, config["text_embed_dim"]),
        "encoder_attention_mask": (torch.arange(longest) < torch.tensor(lengths)[:, None]).long(),
        "pooled_projections": noise(batch, config["pooled_projection_dim"]),
        "guidance": noise(batch) * 1000 if config["guidance_embeds"] else None,
    }


@settings(max_examples=40, deadline=None, derandomize=True)
@given(config=configs(), shape=shapes(), seed=st.integers(0, 2**16))
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_outputs_agree(
    dtype: torch.dtype, config: dict[str, Any], shape: tuple[tuple[int, int, int], list[int]], seed: int
) -> None:
    theirs = torch.nn.Module.to(reference(config, seed), dtype)  # diffusers' own `to` warns of nothing
    ours = Magic141Transformer3DModel.from_hunyuan(theirs)
    arguments = inputs(config, *shape, dtype, seed)
    for mask in (arguments["encoder_attention_mask"], torch.ones_like(arguments["encoder_attention_mask"])):
        arguments["encoder_attention_mask"] = mask
        with torch.no_grad():
            expected = theirs(**arguments, return_dict=False)[0]
            found = ours(**arguments, return_dict=False)[0]
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= TOLERANCE[dtype]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(config=configs(), seed=st.integers(0, 2**16))
def test_weights_come_back_bit_for_bit(config: dict[str, Any], seed: int) -> None:
    theirs = reference(config, seed)
    back = Magic141Transformer3DModel.from_hunyuan(theirs).to_hunyuan()
    expected, found = theirs.state_dict(), back.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert {k: v for k, v in back.config.items() if k[0] != "_"} == {
        k: v for k, v in theirs.config.items() if k[0] != "_"
    }


@settings(max_examples=15, deadline=None, derandomize=True)
@given(config=configs(), shape=shapes(), seed=st.integers(0, 2**16))
def test_gradients_agree(
    config: dict[str, Any], shape: tuple[tuple[int, int, int], list[int]], seed: int
) -> None:
    theirs = reference(config, seed).double()
    ours = Magic141Transformer3DModel.from_hunyuan(theirs)
    arguments = inputs(config, *shape, torch.float64, seed)
    for model in (theirs, ours):
        model(**arguments).sample.square().mean().backward()
    found, expected = (
        {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
        for model in (ours, theirs)
    )
    found = to_hunyuan_state(found, {name: grad.shape for name, grad in expected.items()})
    scale = max(grad.abs().max() for grad in expected.values())
    for name, grad in expected.items():  # both round to float32 on the way
        torch.testing.assert_close(found[name], grad, atol=1e-6 * float(scale), rtol=1e-5)


def small(**changes: Any) -> dict[str, Any]:
    """The lab's size with the architecture that diffusers has."""
    config = asdict(LAB.transformer) | changes
    return {key: value for key, value in config.items() if key not in OURS_ALONE}


OURS_ALONE = (
    "activation_fn",
    "shared_modulation",
    "continuation_embed",
    "pruned_ratio",
    "pruned_mlp_ratio",
    "pruned_blocks",
)


def test_a_weight_that_moved_moves_its_counterpart_alone() -> None:
    theirs = reference(small())
    ours = Magic141Transformer3DModel.from_hunyuan(theirs)
    with torch.no_grad():
        ours.transformer_blocks[0].text.to_qkv.weight[-1] += 1
    expected, found = theirs.state_dict(), ours.to_hunyuan().state_dict()
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == [
        "transformer_blocks.0.attn.add_v_proj.weight"
    ]


def test_conversion_shares_no_memory() -> None:
    theirs = reference(small(num_layers=1, num_single_layers=0))
    ours = Magic141Transformer3DModel.from_hunyuan(theirs)
    back = ours.to_hunyuan()
    pointers = [{p.data_ptr() for p in model.parameters()} for model in (theirs, ours, back)]
    assert len(set.union(*pointers)) == sum(map(len, pointers))


@pytest.mark.parametrize("guidance_embeds", [False, True])
def test_the_13b_preset_has_the_parameters_of_the_diffusers_class(guidance_embeds: bool) -> None:
    config = asdict(replace(MAGIC141_13B.transformer, guidance_embeds=guidance_embeds))
    with torch.device("meta"):
        ours = Magic141Transformer3DModel(**config)
        for name in OURS_ALONE:
            config.pop(name)
        theirs = HunyuanVideoTransformer3DModel(**config)
    count = sum(parameter.numel() for parameter in ours.parameters())
    assert count == sum(parameter.numel() for parameter in theirs.parameters())
    assert 12.5e9 < count < 13.5e9


def test_models_without_a_counterpart_are_refused() -> None:
    with pytest.raises(InputError, match="image_condition_type='token_replace' is unknown"):
        Magic141Transformer3DModel.from_hunyuan(reference(small(image_condition_type="token_replace")))
    with pytest.raises(InputError, match="qk_norm='layer_norm' has no counterpart"):
        Magic141Transformer3DModel.from_hunyuan(reference(small() | {"qk_norm": "layer_norm"}))
    lab = Magic141Transformer3DModel(**asdict(LAB.transformer))
    with pytest.raises(InputError, match="activation_fn='gelu' has no counterpart in diffusers"):
        lab.to_hunyuan()
