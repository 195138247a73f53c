"""What the criteria find, and what they measure."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from magic141.errors import InputError
from magic141.sparsify import CRITERIA, Calibration
from magic141.sparsify.groups import blocks, sites
from magic141.sparsify.importance import measure
from magic141.transformer import Magic141Transformer3DModel

DEAD = 2


def silence(model: Magic141Transformer3DModel, writers: bool) -> None:
    """Group `DEAD` of every site is read by nobody, and with `writers` computes nothing either."""
    for site in sites(model):
        for reader in site.readers:
            reader.layer.weight.data[:, reader.inputs()[DEAD]] = 0
        for writer in site.writers if writers else ():
            writer.layer.weight.data.index_fill_(writer.axis, writer.outputs()[DEAD], 0)
            if not isinstance(writer.layer, nn.Embedding):
                writer.layer.bias.data[writer.outputs()[DEAD]] = 0


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_finds_groups_without_weights(
    model: Magic141Transformer3DModel, calibration: Calibration, criterion: str
) -> None:
    silence(model, writers=True)
    found = measure(model, criterion, calibration).groups
    assert set(found) == {site.name for site in sites(model)}
    for name, scores in found.items():
        assert scores[DEAD] == 0, name
        assert (scores > 0).sum() == len(scores) - 1, name


@pytest.mark.parametrize("criterion", ["activation", "taylor"])
def test_criteria_that_see_data_find_groups_that_nobody_reads(
    model: Magic141Transformer3DModel, calibration: Calibration, criterion: str
) -> None:
    silence(model, writers=False)
    assert all(scores.argmin() == DEAD for scores in measure(model, criterion, calibration).groups.values())


@pytest.mark.parametrize("criterion", CRITERIA)
def test_blocks_that_write_nothing_matter_least(
    model: Magic141Transformer3DModel, calibration: Calibration, criterion: str
) -> None:
    name = "single_transformer_blocks.0"
    for layer in model.get_submodule(name).modules() if criterion == "magnitude" else blocks(model)[name]:
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    found = measure(model, criterion, calibration).blocks
    assert list(found) == [f"{kind}transformer_blocks.{i}" for kind in ("", "single_") for i in range(2)]
    assert found[name] == 0 < min(score for other, score in found.items() if other != name)


def test_magnitude_is_the_norm_of_all_weights_of_a_group(model: Magic141Transformer3DModel) -> None:
    block = model.single_transformer_blocks[1]
    head = torch.cat(
        [
            block.to_qkv.weight.view(3, 4, 16, 64)[:, 3].flatten(),
            block.to_qkv.bias.view(3, 4, 16)[:, 3].flatten(),
            block.to_out.weight[:, 48:64].flatten(),
        ]
    )
    found = measure(model, "magnitude").groups["single_transformer_blocks.1.heads"][3]
    torch.testing.assert_close(found, head.detach().norm())


def test_taylor_is_the_squared_derivative_by_a_gate(
    model: Magic141Transformer3DModel, calibration: Calibration
) -> None:
    model = model.double()
    found = measure(model, "taylor", calibration).groups["transformer_blocks.0.heads"]
    (site,) = (site for site in sites(model) if site.name == "transformer_blocks.0.heads")

    def losses(gate: float) -> Tensor:
        """With head 1 of both streams times `gate`."""
        for reader in site.readers:
            reader.layer.weight.data[:, reader.inputs()[1]] *= gate
        with torch.no_grad():
            values = torch.stack([loss(model) for loss in calibration])
        for reader in site.readers:
            reader.layer.weight.data[:, reader.inputs()[1]] /= gate
        return values

    slope = (losses(1 + 1e-4) - losses(1 - 1e-4)) / 2e-4
    torch.testing.assert_close(found[1].double(), slope.square().mean(), rtol=1e-3, atol=0.0)


def test_activation_is_a_mean_over_batches(
    model: Magic141Transformer3DModel, calibration: Calibration
) -> None:
    both = measure(model, "activation", calibration).groups
    first, second = (measure(model, "activation", [loss]).groups for loss in calibration)
    for name in both:
        torch.testing.assert_close(both[name], (first[name] + second[name]) / 2)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_measuring_leaves_no_trace(
    model: Magic141Transformer3DModel,
    calibration: Calibration,
    velocity: Callable[[Magic141Transformer3DModel], Tensor],
    criterion: str,
) -> None:
    before = velocity(model)
    measure(model, criterion, calibration)
    assert torch.equal(velocity(model), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_bad_requests_are_refused(model: Magic141Transformer3DModel) -> None:
    with pytest.raises(InputError, match="criterion='size' is unknown; use one of magnitude, activation"):
        measure(model, "size")
    for criterion in ("activation", "taylor"):
        with pytest.raises(InputError, match=f"criterion {criterion!r} needs calibration"):
            measure(model, criterion)
