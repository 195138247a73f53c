"""What a pruned model has of its dense one is found again, also after training has moved its weights."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from magic141.errors import InputError
from magic141.sparsify.descent import alignment, kept_of
from magic141.sparsify.importance import measure
from magic141.sparsify.structured import prune_blocks, prune_layers, what_stays
from magic141.transformer import Magic141Transformer3DModel


def moved(model: Magic141Transformer3DModel, by: float) -> Magic141Transformer3DModel:
    """With noise of `by` times its standard deviation on every weight."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += by * noise * parameter.data.std(correction=0)
    return model


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("by", [0.0, 0.5, 1.0])
def test_what_was_kept_is_found_again(model: Magic141Transformer3DModel, ratio: float, by: float) -> None:
    importance = measure(model, "magnitude")
    pruned = moved(prune_layers(model, ratio, importance), by)
    expected, found = what_stays(model, ratio, importance), kept_of(model, pruned)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[place], mask) for place, mask in expected.items())


def test_groups_are_recognised_where_training_has_moved_all_of_them_far_but_alike(
    model: Magic141Transformer3DModel,
) -> None:
    importance = measure(model, "magnitude")
    pruned = prune_layers(model, 0.5, importance)
    stream = pruned.transformer_blocks[0].video
    for layer in (stream.mlp_in, stream.mlp_out):
        layer.weight.data += 2 * layer.weight.data.std(correction=0)  # similarity 0.45
    expected, found = what_stays(model, 0.5, importance), kept_of(model, pruned)
    assert all(torch.equal(found[place], mask) for place, mask in expected.items())


def test_units_of_time_that_training_has_turned_are_left_out(model: Magic141Transformer3DModel) -> None:
    pruned = prune_layers(model, 0.5, measure(model, "magnitude"))
    turned = pruned.time_text_embed.timestep_embedder
    for layer in (turned.linear_1, turned.linear_2):
        layer.weight.data = layer.weight.data.flip(1).roll(3, 0)
    found = kept_of(model, pruned)
    assert found["time_text_embed.timestep_embedder.linear_1.weight", 0].all()
    assert not found["time_text_embed.text_embedder.linear_1.weight", 0].all()


def test_another_model_is_refused(model: Magic141Transformer3DModel) -> None:
    pruned = prune_layers(model, 0.5, measure(model, "magnitude"))
    pruned.transformer_blocks[0].video.mlp_in.weight.data.normal_()
    pruned.transformer_blocks[0].video.mlp_out.weight.data.normal_()
    with pytest.raises(InputError, match=r"weights of transformer_blocks.0.video.mlp are alike by"):
        kept_of(model, pruned)
    with pytest.raises(InputError, match="not made of this dense one"):
        kept_of(prune_layers(model, 0.75, measure(model, "magnitude")), pruned)


def test_only_pruning_may_tell_the_two_apart(model: Magic141Transformer3DModel) -> None:
    importance = measure(model, "magnitude")
    with pytest.raises(InputError, match="pruned_blocks is"):
        kept_of(model, prune_blocks(model, 0.5, importance))
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    deeper = Magic141Transformer3DModel(**config | {"num_single_layers": config["num_single_layers"] + 1})
    with pytest.raises(InputError, match="num_single_layers is"):
        kept_of(model, deeper)
    pruned = prune_layers(model, 0.5, importance)
    pruned.proj_out.weight.data[0, 0] = float("nan")
    with pytest.raises(
        InputError, match=r"proj_out.weight of the pruned model has weights that are not finite"
    ):
        kept_of(model, pruned)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_the_alignment_is_the_best_of_all(rows: int, more: int, seed: int) -> None:
    alike = np.random.default_rng(seed).standard_normal((rows, rows + more)).astype(np.float32)
    found = alignment(alike).tolist()
    assert found == sorted(set(found))

    def total(columns: tuple[int, ...]) -> float:
        return sum(alike[row, column] for row, column in enumerate(columns))

    best = max(map(total, combinations(range(rows + more), rows)))
    assert total(tuple(found)) == pytest.approx(best, abs=1e-5)
