"""Pruned models are physically smaller, and otherwise the models that they were."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from magic141.blocks import kept
from magic141.errors import InputError, WeightsCorrupt, WeightsMissing
from magic141.sparsify.groups import blocks, sites
from magic141.sparsify.importance import Importance, measure
from magic141.sparsify.memory import parameter_bytes
from magic141.sparsify.structured import prune_blocks, prune_layers
from magic141.transformer import Magic141Transformer3DModel

Velocity = Callable[[Magic141Transformer3DModel], Tensor]


def seeded(model: Magic141Transformer3DModel, seed: int = 0) -> Importance:
    """Scores without a tie, between 1 and 2."""
    generator = torch.Generator().manual_seed(seed)
    return Importance(
        {site.name: 1 + torch.rand(site.count, generator=generator) for site in sites(model)},
        {name: 1 + torch.rand((), generator=generator).item() for name in blocks(model)},
    )


@pytest.mark.parametrize("prune", [prune_layers, prune_blocks])
def test_at_ratio_0_nothing_changes(
    model: Magic141Transformer3DModel, velocity: Velocity, prune: Callable[..., Magic141Transformer3DModel]
) -> None:
    pruned = prune(model, 0.0, seeded(model))
    assert torch.equal(velocity(pruned), velocity(model))
    assert (pruned.config.pruned_ratio, pruned.config.pruned_blocks) == (0, None)
    assert set(pruned.state_dict()) == set(model.state_dict())
    before = pruned.proj_out.bias.clone()
    model.proj_out.bias.data += 1  # the copy has weights of its own
    assert torch.equal(pruned.proj_out.bias, before)


@pytest.mark.parametrize(
    ("ratio", "heads", "hidden", "refiner"), [(0.25, 3, 96, 192), (0.5, 2, 64, 128), (0.75, 1, 32, 64)]
)
def test_layers_are_physically_smaller(
    model: Magic141Transformer3DModel, velocity: Velocity, ratio: float, heads: int, hidden: int, refiner: int
) -> None:
    pruned = prune_layers(model, ratio, seeded(model))
    for block in (*pruned.transformer_blocks, *pruned.single_transformer_blocks):
        for part in (block.video, block.text) if hasattr(block, "video") else (block,):
            assert part.heads == heads
            assert tuple(part.to_qkv.weight.shape) == (3 * heads * 16, 64)
            assert tuple(part.mlp_in.weight.shape) == (hidden, 64)
    assert tuple(pruned.transformer_blocks[0].text.to_out.weight.shape) == (64, heads * 16)
    assert tuple(pruned.single_transformer_blocks[0].to_out.weight.shape) == (64, heads * 16 + hidden)
    assert tuple(pruned.context_embedder.blocks[0].mlp_out.weight.shape) == (64, refiner)
    # Four heads and all hidden units go: rows of 64 (+ 1 for the bias) and columns of 64, in every block.
    rows = 3 * 16 * (4 - heads) * 7 + (128 - hidden) * 6 + (256 - refiner)
    columns = 16 * (4 - heads) * 7 + (128 - hidden) * 6 + (256 - refiner)
    in_blocks = 65 * rows + 64 * columns
    # Both conditioning vectors lose units: rows (+ 1) of two embedders of two layers each, the second of which loses
    # columns as well, and columns of 17 and 2 modulations of 64.
    gone = 64 - 16 * heads
    second = 64 * 64 - (64 - gone) ** 2 + gone
    vectors = sum(
        gone * (256 + 1) + gone * (text + 1) + 2 * second + 64 * gone * modulations
        for text, modulations in ((5, 12 + 3 + 2), (6, 2))
    )
    assert parameter_bytes(model) - parameter_bytes(pruned) == 4 * (in_blocks + vectors)
    assert velocity(pruned).shape == velocity(model).shape
    assert pruned.config.pruned_ratio == ratio


def test_hidden_units_may_have_a_ratio_of_their_own(
    model: Magic141Transformer3DModel, velocity: Velocity, tmp_path: Path
) -> None:
    pruned = prune_layers(model, 0.25, seeded(model), 0.75)
    for block in (*pruned.transformer_blocks, *pruned.single_transformer_blocks):
        for part in (block.video, block.text) if hasattr(block, "video") else (block,):
            assert part.heads == 3
            assert part.mlp_in.out_features == 32
    assert pruned.context_embedder.blocks[0].mlp_in.out_features == 64
    assert pruned.time_text_embed.timestep_embedder.linear_2.out_features == 48
    pruned.save_pretrained(tmp_path)
    assert torch.equal(velocity(Magic141Transformer3DModel.from_pretrained(tmp_path)), velocity(pruned))
    alone = prune_layers(model, 0.0, seeded(model), 0.5)
    with pytest.raises(InputError, match=r"pruned already \(pruned_ratio=0.0, pruned_mlp_ratio=0.5"):
        prune_layers(alone, 0.25, seeded(alone))
    with pytest.raises(InputError, match=r"ratio=1.0 must lie in \[0, 1\)"):
        prune_layers(model, 0.25, seeded(model), 1.0)


def test_the_most_important_groups_stay_in_their_order_and_heads_go_from_both_streams(
    model: Magic141Transformer3DModel,
) -> None:
    importance = seeded(model)
    pruned = prune_layers(model, 0.5, importance)
    stay = importance.groups["transformer_blocks.1.heads"].topk(2).indices.sort().values
    for stream in ("video", "text"):
        was, now = (getattr(of.transformer_blocks[1], stream) for of in (model, pruned))
        rows = was.to_qkv.weight.view(3, 4, 16, 64)[:, stay].flatten(0, 2)
        assert torch.equal(now.to_qkv.weight, rows)
        assert torch.equal(now.to_out.weight, was.to_out.weight.view(64, 4, 16)[:, stay].flatten(1))
        assert torch.equal(now.norm_qk.weight, was.norm_qk.weight)


def test_heads_and_hidden_units_that_nothing_reads_can_go(
    model: Magic141Transformer3DModel, velocity: Velocity
) -> None:
    model = model.double()
    importance = seeded(model)
    for site in sites(model):
        dead = importance.groups[site.name].argsort()[: site.count // 2]
        for reader in site.readers:
            reader.layer.weight.data[:, reader.inputs()[dead].flatten()] = 0
    found = velocity(prune_layers(model, 0.5, importance))
    torch.testing.assert_close(found, velocity(model), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("shared", [True, False])
def test_blocks_that_write_nothing_can_go(
    model: Magic141Transformer3DModel,
    own_modulation: Magic141Transformer3DModel,
    velocity: Velocity,
    shared: bool,
) -> None:
    model = (model if shared else own_modulation).double()
    dead = ("transformer_blocks.0", "single_transformer_blocks.1")
    for layer in (layer for name in dead for layer in blocks(model)[name]):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    scores = {name: 0.0 if name in dead else 1.0 for name in blocks(model)}
    pruned = prune_blocks(model, 0.5, Importance({}, scores))
    assert pruned.config.pruned_blocks == (0, 3)
    assert (len(pruned.transformer_blocks), len(pruned.single_transformer_blocks)) == (1, 1)
    torch.testing.assert_close(velocity(pruned), velocity(model), atol=1e-6, rtol=1e-6)
    assert parameter_bytes(pruned) < parameter_bytes(model)


@pytest.mark.parametrize("prune", [prune_layers, prune_blocks])
def test_a_pruned_model_survives_the_disk_with_its_config_only(
    model: Magic141Transformer3DModel,
    velocity: Velocity,
    prune: Callable[..., Magic141Transformer3DModel],
    tmp_path: Path,
) -> None:
    pruned = prune(model, 0.5, measure(model, "magnitude"))
    pruned.save_pretrained(tmp_path)
    loaded = Magic141Transformer3DModel.from_pretrained(tmp_path)
    assert torch.equal(velocity(loaded), velocity(pruned))
    with pytest.raises(InputError, match=r"pruned already .*: prune the dense model"):
        prune_layers(loaded, 0.25, seeded(loaded))

    config = tmp_path / "config.json"
    dense = json.loads(config.read_text()) | {"pruned_ratio": 0.0, "pruned_blocks": None}
    config.write_text(json.dumps(dense))
    with pytest.raises(WeightsCorrupt, match="a pruned checkpoint needs the config"):
        Magic141Transformer3DModel.from_pretrained(tmp_path)
    config.unlink()
    with pytest.raises(WeightsMissing, match="has no config.json: weights alone do not say what was pruned"):
        Magic141Transformer3DModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("count", "ratio", "left"),
    [
        (4, 0.49, 3),
        (4, 0.5, 2),
        (24, 0.25, 18),
        (768, 0.49, 384),
        (1024, 0.49, 512),
        (100, 0.0, 100),
        (64, 0.99, 16),
    ],
)
def test_widths_are_cut_to_what_matrix_kernels_want_and_counts_are_not(
    count: int, ratio: float, left: int
) -> None:
    assert kept(count, ratio) == left


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
def test_ratios_outside_their_range_are_refused(model: Magic141Transformer3DModel, ratio: float) -> None:
    for prune in (prune_layers, prune_blocks):
        with pytest.raises(InputError, match=r"must lie in \[0, 1\)"):
            prune(model, ratio, seeded(model))
    with pytest.raises(InputError, match=r"must lie in \[0, 1\)"):
        Magic141Transformer3DModel(**(dict(model.config) | {"pruned_ratio": ratio}))


@pytest.mark.parametrize("gone", [(4,), (-1,), (0, 1, 2, 3)])
def test_blocks_that_do_not_exist_or_are_all_are_refused(
    model: Magic141Transformer3DModel, gone: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match=r"must be some, and not all, of 0\.\.3"):
        Magic141Transformer3DModel(**(dict(model.config) | {"pruned_blocks": gone}))


def test_diffusers_has_no_pruned_model(own_modulation: Magic141Transformer3DModel) -> None:
    pruned = prune_layers(own_modulation, 0.5, seeded(own_modulation))
    pruned.register_to_config(activation_fn="gelu-approximate")
    with pytest.raises(InputError, match="pruned_ratio=0.5 has no counterpart"):
        pruned.to_hunyuan()
