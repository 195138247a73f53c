"""What the transformer promises besides parity: conditions, masks, features, and what diffusers does with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from magic141.attention import Attention, AttentionProcessor, explicit_attention
from magic141.errors import InputError
from magic141.transformer import Magic141Transformer3DModel

TINY: dict[str, Any] = {
    "in_channels": 9,
    "out_channels": 4,
    "num_attention_heads": 2,
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
    "continuation_embed": True,
}


def tiny(**changes: Any) -> Magic141Transformer3DModel:
    """A small model with weights everywhere, as after training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Magic141Transformer3DModel(**(TINY | changes))
        for parameter in model.parameters():
            parameter.data += torch.randn(parameter.shape) * 0.2
    return model


def inputs(batch: int = 3, length: int = 5, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(batch, 9, 3, 4, 6, generator=generator),
        "timestep": torch.rand(batch, generator=generator) * 1000,
        "encoder_hidden_states": torch.randn(batch, length, 6, generator=generator),
        "pooled_projections": torch.randn(batch, 5, generator=generator),
    }


@contextmanager
def masks_seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor | None]]:
    """Record the mask of every attention call."""
    seen: list[Tensor | None] = []
    original = AttentionProcessor.__call__

    def record(self: Any, attn: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        seen.append(mask)
        return original(self, attn, q, k, v, mask)

    with monkeypatch.context() as patch:
        patch.setattr(AttentionProcessor, "__call__", record)
        yield seen


def test_output_has_the_shape_of_the_noisy_latents() -> None:
    output = tiny()(**inputs())
    assert output.sample.shape == (3, 4, 3, 4, 6)
    assert output.features == ()


def test_an_untrained_model_predicts_no_velocity() -> None:
    assert not Magic141Transformer3DModel(**TINY)(**inputs()).sample.any()


def test_every_weight_gets_a_gradient() -> None:
    model = tiny()
    model(**inputs(), continuation=torch.tensor([True, False, True])).sample.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), order=st.permutations(range(3)))
def test_samples_of_a_batch_do_not_meet(seed: int, order: list[int]) -> None:
    model, batch, flags = tiny(), inputs(seed=seed), torch.tensor([True, False, True])
    together = model(**batch, continuation=flags).sample
    one = order[0]
    alone = model(**{name: x[one : one + 1] for name, x in batch.items()}, continuation=flags[one : one + 1])
    torch.testing.assert_close(alone.sample[0], together[one], atol=1e-5, rtol=1e-4)
    shuffled = model(**{name: x[order] for name, x in batch.items()}, continuation=flags[order]).sample
    torch.testing.assert_close(shuffled, together[order], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["timestep", "encoder_hidden_states", "pooled_projections"])
def test_every_condition_matters(name: str) -> None:
    model, batch = tiny(), inputs()
    before = model(**batch).sample
    after = model(**batch | {name: batch[name] * 0.5}).sample
    assert ((after - before).abs().amax(dim=(1, 2, 3, 4)) > 1e-3).all()


def test_continuation_is_told_per_sample_and_is_start_unless_given() -> None:
    model, batch = tiny(), inputs()
    start = model(**batch).sample
    flagged = model(**batch, continuation=torch.tensor([False, True, False])).sample
    assert torch.equal(start[[0, 2]], flagged[[0, 2]])
    assert (start[1] - flagged[1]).abs().max() > 1e-3


def test_guidance_matters_where_the_model_takes_it() -> None:
    model, batch = tiny(guidance_embeds=True), inputs()
    low, high = (model(**batch, guidance=torch.full((3,), 1000 * scale)).sample for scale in (1.0, 6.0))
    assert (low - high).abs().max() > 1e-3


@settings(max_examples=15, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 5), min_size=3, max_size=3))
def test_padding_does_not_matter(lengths: list[int]) -> None:
    model, batch = tiny(), inputs()
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    text = batch["encoder_hidden_states"]
    noise = torch.where(mask[..., None], text, torch.full_like(text, 7.0))
    first = model(**batch, encoder_attention_mask=mask).sample
    second = model(**batch | {"encoder_hidden_states": noise}, encoder_attention_mask=mask).sample
    torch.testing.assert_close(first, second)
    for i, length in enumerate(lengths):  # nor does its amount
        cut = {name: x[i : i + 1] for name, x in batch.items()} | {
            "encoder_hidden_states": text[i : i + 1, :length]
        }
        torch.testing.assert_close(model(**cut).sample[0], first[i], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mask", [None, torch.ones(3, 5), torch.ones(3, 5, dtype=torch.bool)])
def test_without_padding_attention_gets_no_mask(monkeypatch: pytest.MonkeyPatch, mask: Tensor | None) -> None:
    with masks_seen(monkeypatch) as seen:
        tiny()(**inputs(), encoder_attention_mask=mask)
    assert seen == [None] * 5


def test_with_padding_attention_gets_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.arange(5) < torch.tensor([5, 2, 1])[:, None]
    with masks_seen(monkeypatch) as seen:
        tiny()(**inputs(), encoder_attention_mask=mask)
    video = torch.ones(3, 18, dtype=torch.bool)
    assert len(seen) == 5
    for joint in seen[1:]:
        assert joint is not None
        assert torch.equal(joint[:, 0, 0], torch.cat([video, mask], dim=1))


def test_features_are_the_video_tokens_after_a_block() -> None:
    model, batch = tiny(), inputs()
    caught = {}
    for i, block in enumerate((*model.transformer_blocks, *model.single_transformer_blocks)):
        block.register_forward_hook(lambda *args, i=i: caught.update({i: args[2]}))
    output = model(**batch, feature_layers=(3, 0))
    assert torch.equal(output.features[0], caught[3][:, :18])
    assert torch.equal(output.features[1], caught[0][0])
    assert torch.equal(output.sample, model(**batch).sample)
    sample, last, first = model(**batch, feature_layers=(3, 0), return_dict=False)
    assert torch.equal(sample, output.sample)
    assert torch.equal(torch.stack([last, first]), torch.stack(output.features))


def test_gradient_checkpointing_changes_nothing() -> None:
    model, batch = tiny(), inputs()
    grads = []
    for enable in (model.disable_gradient_checkpointing, model.enable_gradient_checkpointing):
        enable()
        model.zero_grad()
        output = model(**batch, feature_layers=(1,))
        (output.sample.square().sum() + output.features[0].sum()).backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, checkpointed in zip(*grads, strict=True):
        torch.testing.assert_close(checkpointed, plain)


@pytest.mark.parametrize("padded", [False, True])
def test_training_in_bfloat16_follows_float32(padded: bool) -> None:
    mask = torch.arange(5) < torch.tensor([5, 2, 1])[:, None] if padded else None
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        model = torch.nn.Module.to(tiny(), dtype)
        batch = {name: x if name == "timestep" else x.to(dtype) for name, x in inputs().items()}
        sample = model(**batch, encoder_attention_mask=mask).sample
        assert sample.dtype == dtype
        sample.float().square().mean().backward()
        grads.append(torch.cat([p.grad.float().flatten() for p in model.parameters()]))
    assert torch.cosine_similarity(*grads, dim=0) > 0.999
    assert grads[1].norm() / grads[0].norm() == pytest.approx(1, abs=0.05)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    tokens=st.integers(1, 9), valid=st.integers(1, 9), cached=st.integers(1, 9_000), seed=st.integers(0, 999)
)
def test_explicit_attention_is_the_fused_kernel(tokens: int, valid: int, cached: int, seed: int) -> None:
    qkv = torch.randn(3, 5, 3, tokens, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    alike = (torch.arange(tokens) < valid)[None, None, None]
    rows = torch.arange(tokens) < torch.tensor([valid, 1, tokens, valid, tokens])[:, None, None, None]
    for mask in (None, alike, rows):
        expected = torch.nn.functional.scaled_dot_product_attention(*qkv, attn_mask=mask)
        with patch("magic141.attention.CACHED", cached):
            torch.testing.assert_close(explicit_attention(*qkv, mask), expected)


@pytest.mark.parametrize(
    ("tokens", "dtype", "backend", "explicit"),
    [
        (184, torch.bfloat16, None, True),
        (56, torch.bfloat16, None, False),  # as in one picture: the operators would cost more
        (1024, torch.bfloat16, None, False),  # the scores of one row leave the cache
        (184, torch.float32, None, False),
        (184, torch.bfloat16, "native", False),
    ],
)
def test_sampling_on_a_cpu_takes_the_faster_attention(
    tokens: int, dtype: torch.dtype, backend: str | None, explicit: bool
) -> None:
    attention = Attention()
    if backend:
        attention.set_attention_backend(backend)
    qkv = torch.randn(3, 1, 4, tokens, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    with (
        torch.inference_mode(),
        patch("magic141.attention.explicit_attention", wraps=explicit_attention) as taken,
    ):
        found = attention(*qkv)
    assert taken.called == explicit
    expected = torch.nn.functional.scaled_dot_product_attention(*qkv.double())
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found.double(), expected.transpose(1, 2).flatten(2), atol=tolerance, rtol=0)


def test_training_works_on_what_sampling_has_cached() -> None:
    model, batch = tiny(), inputs()
    batch["hidden_states"] = torch.randn(3, 9, 5, 2, 2)  # a size that no other test has
    with torch.inference_mode():
        sampled = model(**batch).sample
    trained = model(**batch).sample
    trained.sum().backward()
    assert torch.equal(sampled, trained.detach())


def test_the_attention_backend_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny(), inputs()
    expected = model(**batch).sample
    model.set_attention_backend("_native_math")
    called = []
    kernel = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *args, **kwargs: called.append(1) or kernel(*args, **kwargs),
    )
    torch.testing.assert_close(model(**batch).sample, expected, atol=1e-5, rtol=1e-4)
    assert len(called) == 5
    assert len(model.attn_processors) == 5


def test_weights_and_settings_survive_the_disk(tmp_path: Path) -> None:
    model, batch = tiny(), inputs()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "diffusion_pytorch_model.safetensors").exists()
    loaded = Magic141Transformer3DModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(**batch).sample, model(**batch).sample)


def test_weights_can_be_stored_narrow_and_computed_wide() -> None:
    model, batch = tiny(), inputs()
    expected = model(**batch).sample
    model.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    assert model.transformer_blocks[0].video.mlp_in.weight.dtype == torch.bfloat16
    found = model(**batch).sample
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_shared_modulation_is_one_network_a_kind() -> None:
    shared, own = tiny(), tiny(shared_modulation=False)
    width = 32
    networks = [12 * width * (width + 1), 3 * width * (width + 1)]
    offsets = 2 * (12 + 3) * width
    count = {model: sum(p.numel() for p in model.parameters()) for model in (shared, own)}
    assert count[own] - count[shared] == 2 * sum(networks) - sum(networks) - offsets


REFUSED: dict[str, dict[str, Any]] = {
    r"hidden_states has shape \(3, 8, 3, 4, 6\), but must have \(B, 9, T, H, W\)": {
        "hidden_states": torch.zeros(3, 8, 3, 4, 6)
    },
    r"hidden_states has shape \(9, 3, 4, 6\)": {"hidden_states": torch.zeros(9, 3, 4, 6)},
    r"latent size \(3, 4, 5\) must be positive multiples of the patch \(1, 2, 2\)": {
        "hidden_states": torch.zeros(3, 9, 3, 4, 5)
    },
    r"timestep has shape \(1,\), but must have \(3\)": {"timestep": torch.zeros(1)},
    r"encoder_hidden_states has shape \(3, 5, 7\), but must have \(3, L, 6\)": {
        "encoder_hidden_states": torch.zeros(3, 5, 7)
    },
    r"encoder_attention_mask has shape \(3, 4\), but must have \(3, 5\)": {
        "encoder_attention_mask": torch.ones(3, 4)
    },
    r"pooled_projections has shape \(3, 4\), but must have \(3, 5\)": {
        "pooled_projections": torch.zeros(3, 4)
    },
    "pooled_projections is missing": {"pooled_projections": None},
    r"continuation has shape \(2,\)": {"continuation": torch.zeros(2, dtype=torch.bool)},
    r"feature_layers=\(4,\) must lie in 0..3": {"feature_layers": (4,)},
    r"feature_layers=\(-1,\) must lie in 0..3": {"feature_layers": (-1,)},
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_refused(message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny()(**inputs() | REFUSED[message])


def test_conditions_that_the_model_lacks_or_needs_are_named() -> None:
    with pytest.raises(InputError, match="no continuation_embed"):
        tiny(continuation_embed=False)(**inputs(), continuation=torch.zeros(3, dtype=torch.bool))
    with pytest.raises(InputError, match="pass guidance"):
        tiny(guidance_embeds=True)(**inputs())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_axes_dim": (4, 4, 4)}, "3 even numbers that sum to attention_head_dim=16"),
        ({"rope_axes_dim": (8, 8)}, "3 even numbers"),
        ({"rope_axes_dim": (5, 5, 6)}, "even"),
        ({"activation_fn": "relu"}, "activation_fn='relu' is unknown; use one of gelu, gelu-approximate"),
        ({"image_condition_type": "token_replace"}, "use one of None, 'latent_concat'"),
    ],
)
def test_settings_that_make_no_model_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Magic141Transformer3DModel(**(TINY | changes))


def test_it_trains_compiled_as_it_does_eager():
    eager, compiled = tiny(), tiny()
    compiled.compile(backend="aot_eager", fullgraph=True, dynamic=False)
    for model in (eager, compiled):
        model(**inputs()).sample.square().sum().backward()
    for (name, ours), theirs in zip(eager.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-3, msg=name)
