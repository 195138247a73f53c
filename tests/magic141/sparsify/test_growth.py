"""Hidden units come back, and change nothing until they learn."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from magic141.errors import InputError
from magic141.sparsify import Calibration
from magic141.sparsify.descent import kept_of
from magic141.sparsify.groups import HIDDEN, sites
from magic141.sparsify.growth import give_back
from magic141.sparsify.importance import measure
from magic141.sparsify.structured import prune_layers
from magic141.transformer import Magic141Transformer3DModel

Velocity = Callable[[Magic141Transformer3DModel], torch.Tensor]


def trained(model: Magic141Transformer3DModel) -> Magic141Transformer3DModel:
    """As training leaves it: no weight is what it was in the dense model."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += (
            0.1 * parameter.data.std(correction=0) * torch.randn(parameter.shape, generator=generator)
        )
    return model


@pytest.mark.parametrize("mlp_ratio", [0.0, 0.25, 0.5, 0.75])
def test_a_grown_model_says_what_it_said(
    model: Magic141Transformer3DModel, velocity: Velocity, mlp_ratio: float
) -> None:
    scores = measure(model, "magnitude")
    small = trained(prune_layers(model, 0.25, scores, 0.75))
    reverse = replace(scores, groups={name: -of for name, of in scores.groups.items()})
    before = velocity(small)
    grown = give_back(model, small, mlp_ratio, reverse)  # whatever it had stays, if the least important
    assert (grown.config.pruned_ratio, grown.config.pruned_mlp_ratio) == (0.25, mlp_ratio)
    torch.testing.assert_close(velocity(grown), before, rtol=0, atol=1e-5)
    counted = {site.name: site.count for site in sites(prune_layers(model, 0.25, scores, mlp_ratio))}
    assert {site.name: site.count for site in sites(grown)} == counted
    for site, ours in zip(sites(small), sites(grown), strict=True):
        if site.name.endswith(HIDDEN):
            old = (ours.readers[0].layer.weight[:, ours.readers[0].start :] != 0).any(0)
            assert old.sum() == site.count
            assert torch.equal(ours.writers[0].layer.weight[old], site.writers[0].layer.weight)


def test_the_most_important_of_what_was_lost_comes_back(model: Magic141Transformer3DModel) -> None:
    scores = measure(model, "magnitude")
    grown = give_back(model, trained(prune_layers(model, 0.25, scores, 0.75)), 0.5, scores)
    less, more = (kept_of(model, prune_layers(model, 0.25, scores, ratio)) for ratio in (0.75, 0.5))
    names = {layer: name for name, layer in model.named_modules()}
    for site, ours in zip(sites(model), sites(grown), strict=True):
        if site.name.endswith(HIDDEN):
            there, wanted = (stays[f"{names[site.writers[0].layer]}.weight", 0] for stays in (less, more))
            back = (wanted & ~there)[wanted]
            rows = site.writers[0].layer.weight[wanted & ~there]
            assert torch.equal(ours.writers[0].layer.weight[back], rows)


def test_units_that_come_back_learn(model: Magic141Transformer3DModel, calibration: Calibration) -> None:
    importance = measure(model, "magnitude")
    grown = give_back(model, prune_layers(model, 0.25, importance, 0.75), 0.5, importance)
    grown.requires_grad_(True)
    next(iter(calibration))(grown).backward()
    for site in sites(grown):
        if site.name.endswith(HIDDEN):
            reader = site.readers[0].layer.weight
            new = (reader == 0).all(0)
            assert new.any()
            assert (reader.grad[:, new] != 0).any(0).all()


def test_fewer_units_than_there_are_is_not_growth(model: Magic141Transformer3DModel) -> None:
    importance = measure(model, "magnitude")
    small = prune_layers(model, 0.25, importance, 0.5)
    with pytest.raises(
        InputError, match=r"mlp_ratio=0.75 leaves 64 of .*\.mlp, and the pruned model has 128"
    ):
        give_back(model, small, 0.75, importance)
    with pytest.raises(InputError, match=r"must lie in \[0, 1\)"):
        give_back(model, small, 1.0, importance)
    with pytest.raises(InputError, match="not made of this dense one"):
        give_back(small, model, 0.25, importance)
