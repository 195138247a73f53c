"""`Sparsity` and `apply`: one way after another, to a transformer or to a pipeline."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from magic141.errors import InputError, UnsupportedError
from magic141.pipeline import Magic141Pipeline
from magic141.sparsify import Calibration, Sparsity, apply, parse
from magic141.sparsify import quantise as module
from magic141.sparsify.memory import parameter_bytes
from magic141.transformer import Magic141Transformer3DModel


@pytest.mark.parametrize("criterion", ["magnitude", "activation", "taylor"])
@pytest.mark.parametrize("kind", ["structured", "blocks"])
def test_pruning_makes_a_new_transformer(
    model: Magic141Transformer3DModel, calibration: Calibration, kind: str, criterion: str
) -> None:
    size = parameter_bytes(model)
    pruned = apply(model, Sparsity(kind=kind, ratio=0.5, criterion=criterion), calibration=calibration)
    assert parameter_bytes(pruned) < 0.9 * size == 0.9 * parameter_bytes(model)


@pytest.mark.parametrize(("kind", "ratio"), [("unstructured", 0.75), ("n:m", 0.75)])
def test_masks_change_the_transformer_itself(
    model: Magic141Transformer3DModel, kind: str, ratio: float
) -> None:
    assert apply(model, Sparsity(kind=kind, ratio=ratio)) is model
    assert (model.transformer_blocks[0].video.mlp_in.weight == 0).float().mean() == 0.75


def test_2_of_4_is_unsupported_here(model: Magic141Transformer3DModel) -> None:
    with pytest.raises(UnsupportedError):
        apply(model, Sparsity(kind="2:4", ratio=0.5))


@pytest.mark.skipif(module.find_spec("torchao") is None, reason="torchao is not installed")
def test_a_pruned_and_quantised_pipeline_is_one_checkpoint(pipe: Magic141Pipeline, tmp_path: Path) -> None:
    ways = (Sparsity(kind="structured", ratio=0.5), Sparsity(kind="int8"))
    assert apply(pipe, *ways) is pipe
    pipe.save_pretrained(tmp_path)
    loaded = Magic141Pipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    first, second = (
        of(
            "a small red ring",
            num_frames=5,
            num_inference_steps=1,
            generator=torch.Generator().manual_seed(0),
        )
        for of in (pipe, loaded)
    )
    assert (first.frames == second.frames).all()
    assert parameter_bytes(loaded.transformer) == parameter_bytes(pipe.transformer)
    assert loaded.transformer.config.pruned_ratio == 0.5
    with pytest.raises(InputError):
        apply(loaded, Sparsity(kind="structured", ratio=0.5))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "sparse"}, "kind='sparse' is unknown; use one of structured, blocks"),
        ({"kind": "structured", "criterion": "size"}, "criterion='size' is unknown"),
        ({"kind": "structured", "ratio": 1.0}, r"ratio=1.0 must lie in \[0, 1\)"),
        ({"kind": "blocks", "ratio": -0.5}, r"ratio=-0.5 must lie in \[0, 1\)"),
        ({"kind": "unstructured", "ratio": float("nan")}, r"ratio=nan must lie in \[0, 1\)"),
        ({"kind": "n:m", "ratio": 0.3}, "ratio=0.3 must be a quarter"),
        ({"kind": "2:4", "ratio": 0.25}, "ratio=0.25 must be 0.5"),
        ({"kind": "int8", "ratio": 0.5}, "ratio=0.5 means nothing for kind 'int8'"),
        ({"kind": "blocks", "ratio": 0.5, "mlp_ratio": 0.5}, "mlp_ratio=0.5 means nothing for kind 'blocks'"),
        ({"kind": "blocks", "ratio": 0.5, "refit": True}, "refit=True means nothing for kind 'blocks'"),
    ],
)
def test_specifications_that_mean_nothing_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sparsity(**fields)


def test_specifications_need_no_torch() -> None:
    code = "import sys, magic141.sparsify as s; s.Sparsity(kind='int8'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "ways"),
    [
        ("none", []),
        ("structured-0.5", [("structured", 0.5)]),
        ("n:m-0.75", [("n:m", 0.75)]),
        ("2:4", [("2:4", 0.5)]),
        ("int8-dynamic", [("int8-dynamic", 0.0)]),
        ("structured-0.5+int8", [("structured", 0.5), ("int8", 0.0)]),
    ],
)
def test_knobs_name_ways(text: str, ways: list[tuple[str, float]]) -> None:
    assert [(way.kind, way.ratio) for way in parse(text)] == ways
    assert {way.criterion for way in parse(text, "taylor")} <= {"taylor"}
    assert all(way.refit == (way.kind == "structured") for way in parse(text, refit=True))


def test_hidden_units_have_a_second_ratio() -> None:
    (way,) = parse("structured-0.25-0.75", "taylor", refit=True)
    assert way == Sparsity(kind="structured", ratio=0.25, mlp_ratio=0.75, criterion="taylor", refit=True)
    assert parse("structured-0.25")[0].mlp_ratio is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "sparsity '' is unknown"),
        ("structured", "sparsity 'structured' is unknown: use 'none', a kind with a ratio"),
        ("structured-half", "sparsity 'structured-half' is unknown"),
        ("sparse-0.5", "sparsity 'sparse-0.5' is unknown"),
        ("structured-1", r"ratio=1.0 must lie in \[0, 1\)"),
        ("structured--0.5", "sparsity 'structured--0.5' is unknown"),
        ("structured-0.25-1", r"mlp_ratio=1.0 must lie in \[0, 1\)"),
        ("structured-0.25-0.5-0.75", "sparsity 'structured-0.25-0.5-0.75' is unknown"),
        ("blocks-0.25-0.5", "sparsity 'blocks-0.25-0.5' is unknown"),
        ("int8-0.5", "ratio=0.5 means nothing for kind 'int8'"),
        ("none+int8", "sparsity 'none' is unknown"),
    ],
)
def test_knobs_that_mean_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(text)


@pytest.mark.parametrize(
    "text", ["unstructured-0.5+int8+structured-0.5", "int8+int8", "structured-0.5+blocks-0.5"]
)
def test_an_order_that_cannot_be_changes_nothing(model: Magic141Transformer3DModel, text: str) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=r"cannot follow|both prune"):
        apply(model, *parse(text))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("text", ["unstructured-0.9+2:4", "n:m-0.5+fp8"])
def test_what_this_machine_lacks_is_found_before_anything_changes(
    model: Magic141Transformer3DModel, text: str
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UnsupportedError):
        apply(model, *parse(text))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_too_few_blocks_to_take_one_are_named(model: Magic141Transformer3DModel) -> None:
    with pytest.raises(InputError, match=r"ratio=0.1 of \d blocks takes none: ask for 0\.\d+ or more"):
        apply(model, *parse("blocks-0.1"))
