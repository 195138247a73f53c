"""Refitted layers say what the dense ones said, where what is left can say it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from magic141.errors import InputError
from magic141.sparsify import Calibration, Sparsity, apply
from magic141.sparsify import refit as module
from magic141.sparsify.groups import blocks, sites
from magic141.sparsify.importance import Importance
from magic141.sparsify.refit import refit, solve
from magic141.sparsify.structured import prune_layers, what_stays
from magic141.transformer import Magic141Transformer3DModel

Velocity = Callable[[Magic141Transformer3DModel], Tensor]


def later_copy_earlier(model: Magic141Transformer3DModel) -> Importance:
    """Make the later half of the groups of every site compute what the earlier half does, but for other readers;
    returns scores by which they go.
    """
    scores = {}
    for site in sites(model):
        half = site.count // 2
        for writer in site.writers:
            of = writer.outputs()
            parameters = [(writer.layer.weight, writer.axis)]
            if not isinstance(writer.layer, nn.Embedding):
                parameters.append((writer.layer.bias, 0))
            for parameter, axis in parameters:
                first = parameter.data.index_select(axis, of[:half].flatten())
                parameter.data.index_copy_(axis, of[half:].flatten(), first)
        scores[site.name] = (torch.arange(site.count) < half).float()
    return Importance(scores, dict.fromkeys(blocks(model), 1.0))


def error(pruned: Magic141Transformer3DModel, dense: Magic141Transformer3DModel, on: Calibration) -> float:
    return sum((loss(pruned) - loss(dense)).abs().item() for loss in on)


def test_readers_of_copies_are_merged(
    model: Magic141Transformer3DModel, calibration: Calibration, velocity: Velocity
) -> None:
    model = model.double()
    importance = later_copy_earlier(model)
    pruned = prune_layers(model, 0.5, importance)
    before = error(pruned, model, calibration)
    refit(pruned, model, what_stays(model, 0.5, importance), calibration)
    assert error(pruned, model, calibration) < 0.02 * before
    assert not any(layer._forward_hooks for of in (pruned, model) for layer in of.modules())
    assert velocity(pruned).isfinite().all()


def test_what_says_the_same_already_stays(
    model: Magic141Transformer3DModel, calibration: Calibration, velocity: Velocity
) -> None:
    model = model.double()
    importance = later_copy_earlier(model)
    for site in sites(model):
        for reader in site.readers:
            reader.layer.weight.data[:, reader.inputs()[site.count // 2 :].flatten()] = 0
    pruned = prune_layers(model, 0.5, importance)
    before = velocity(pruned)
    refit(pruned, model, what_stays(model, 0.5, importance), calibration)
    torch.testing.assert_close(velocity(pruned), before, atol=1e-8, rtol=1e-8)


def test_without_a_ridge_the_solution_is_that_of_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RIDGE", 0.0)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(50, width, generator=generator, dtype=torch.float64) for width in (6, 3))
    layer = nn.Linear(6, 3).double().requires_grad_(False)
    with_one = torch.cat([x, torch.ones(50, 1)], dim=1)
    solve(layer, with_one.T @ with_one, with_one.T @ y)
    torch.testing.assert_close(layer(x), with_one @ torch.linalg.lstsq(with_one, y).solution)


def test_refitting_is_asked_for_and_goes_by_data(
    model: Magic141Transformer3DModel, calibration: Calibration
) -> None:
    way = Sparsity(kind="structured", ratio=0.5, refit=True)
    plain = apply(model, Sparsity(kind="structured", ratio=0.5))
    better = apply(model, way, calibration=iter(calibration))
    assert error(better, model, calibration) < 0.5 * error(plain, model, calibration)
    with pytest.raises(InputError, match="refit needs calibration"):
        apply(model, way)
