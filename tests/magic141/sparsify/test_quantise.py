"""Quantised models: near to the dense ones, of the predicted size, saved and loaded; skipped without torchao."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from magic141.errors import InputError, UnsupportedError
from magic141.sparsify import quantise as module
from magic141.sparsify.importance import measure
from magic141.sparsify.masks import mask_n_of_four
from magic141.sparsify.memory import parameter_bytes, predicted_bytes
from magic141.sparsify.quantise import quantise
from magic141.sparsify.structured import prune_layers
from magic141.transformer import Magic141Transformer3DModel

Velocity = Callable[[Magic141Transformer3DModel], Tensor]
needs_torchao = pytest.mark.skipif(module.find_spec("torchao") is None, reason="torchao is not installed")
KINDS = pytest.mark.parametrize(("kind", "error"), [("int8", 0.02), ("int8-dynamic", 0.04), ("int4", 0.2)])


@needs_torchao
@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_as_predicted(
    model: Magic141Transformer3DModel, kind: str, error: float, dtype: torch.dtype
) -> None:
    model = model.to(dtype)
    dense, predicted = parameter_bytes(model), predicted_bytes(model, kind, dtype)
    quantise(model, kind)
    assert parameter_bytes(model) == predicted < 0.65 * dense


@needs_torchao
@KINDS
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_pruned_and_quantised_models_survive_the_disk(
    model: Magic141Transformer3DModel,
    velocity: Velocity,
    tmp_path: Path,
    kind: str,
    error: float,
    ratio: float,
) -> None:
    model = prune_layers(model, ratio, measure(model, "magnitude"))
    before = velocity(model)
    quantise(model, kind)
    found = velocity(model)
    assert 0 < (found - before).norm() < error * before.norm()
    model.save_pretrained(tmp_path)
    loaded = Magic141Transformer3DModel.from_pretrained(tmp_path)
    torch.testing.assert_close(velocity(loaded), found, atol=1e-5, rtol=1e-5)
    assert parameter_bytes(loaded) == parameter_bytes(model)
    assert [type(p) for p in loaded.parameters()] == [type(p) for p in model.parameters()]
    loaded.save_pretrained(tmp_path / "again")
    again = Magic141Transformer3DModel.from_pretrained(tmp_path / "again")
    torch.testing.assert_close(velocity(again), found, atol=1e-5, rtol=1e-5)


@needs_torchao
def test_int4_of_bfloat16_survives_the_disk_to_the_last_bit(
    model: Magic141Transformer3DModel, tmp_path: Path
) -> None:
    model = model.to(torch.bfloat16)
    quantise(model, "int4")
    for folder in (tmp_path / "once", tmp_path / "twice"):
        model.save_pretrained(folder)
        loaded = Magic141Transformer3DModel.from_pretrained(folder, dtype=torch.bfloat16)
        for (name, before), after in zip(model.named_parameters(), loaded.parameters(), strict=True):
            if module.is_int4(before):
                assert torch.equal(before.qdata, after.qdata), name
                assert torch.equal(before.scale_and_zero, after.scale_and_zero), name
        model = loaded


@needs_torchao
def test_quantised_weights_are_not_pruned_masked_or_quantised_again(
    model: Magic141Transformer3DModel,
) -> None:
    importance = measure(model, "magnitude")
    quantise(model, "int8")
    with pytest.raises(InputError, match="quantised already"):
        quantise(model, "int4")
    with pytest.raises(InputError, match="prune first, then quantise"):
        prune_layers(model, 0.5, importance)
    with pytest.raises(InputError, match="mask first, then quantise"):
        mask_n_of_four(model, 0.5)


@needs_torchao
def test_fp8_is_unsupported_without_a_gpu(model: Magic141Transformer3DModel) -> None:
    with pytest.raises(UnsupportedError, match="capability 8.9 or later, and the model is on cpu"):
        quantise(model, "fp8")
    assert predicted_bytes(model, "fp8") < predicted_bytes(model, "int8")


@needs_torchao
@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["int8", "int8-dynamic", "int4", "fp8"])
def test_gpus_compute_what_the_dense_model_does(model: Magic141Transformer3DModel, kind: str) -> None:
    x = torch.randn(32, 64, device="cuda", dtype=torch.bfloat16)
    model = model.to("cuda", torch.bfloat16)
    layer = model.transformer_blocks[0].video.to_qkv
    with torch.no_grad():
        before = layer(x)
        quantise(model, kind)
        assert (layer(x) - before).norm() < 0.15 * before.norm()


@needs_torchao
def test_int8_computes_in_the_type_that_it_came_from(
    model: Magic141Transformer3DModel, tmp_path: Path
) -> None:
    quantise(model, "int8")
    model.save_pretrained(tmp_path)
    assert Magic141Transformer3DModel.from_pretrained(tmp_path).is_quantized
    with pytest.raises(UnsupportedError, match=r"quantised from torch\.float32 and compute in it alone"):
        Magic141Transformer3DModel.from_pretrained(tmp_path, dtype=torch.bfloat16)


@needs_torchao
def test_quantised_checkpoints_need_torchao(
    model: Magic141Transformer3DModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantise(model, "int8")
    model.save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "torchao.core.config", None)
    with pytest.raises(UnsupportedError, match=r"these weights need `pip install 'magic141\[quantise\]'`"):
        Magic141Transformer3DModel.from_pretrained(tmp_path)


def test_what_cannot_be_had_is_named(
    model: Magic141Transformer3DModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="kind='int3' is unknown; use one of int8"):
        quantise(model, "int3")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"pip install 'magic141\[quantise\]'"):
        quantise(model, "int8")
