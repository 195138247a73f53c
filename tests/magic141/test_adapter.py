"""A student as its difference from its teacher: exact where the rank suffices, the nearest where it does not."""

import copy

import pytest
import torch
from torch import nn

from magic141 import adapter
from magic141.errors import InputError, WeightsCorrupt


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(24, 40), nn.LayerNorm(40), nn.Linear(40, 3), nn.Conv2d(20, 30, 3))


def changed(teacher, rank):
    """A student whose first matrix differs by `rank` directions, and whose biases differ freely."""
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student[0].weight += torch.randn(40, rank) @ torch.randn(rank, 24)
        student[0].bias += torch.randn(40)
        student[3].weight += 0.1
    return student


def test_a_change_of_low_rank_is_kept_whole(tmp_path):
    teacher = model()
    student = changed(teacher, 4)
    tensors = adapter.factor(student, teacher, 4)
    assert tensors["transformer.0.lora_A.weight"].shape == (4, 24)
    assert tensors["transformer.0.lora_B.weight"].shape == (40, 4)
    assert "transformer.0.bias.diff" in tensors
    assert not any(
        key.startswith(("transformer.1", "transformer.2")) for key in tensors
    )  # nothing changed there
    adapter.save(tensors, tmp_path)
    assert adapter.left_out(student, copy.deepcopy(teacher), tmp_path) < 1e-5
    merged = adapter.merge(teacher, tmp_path).state_dict()
    for name, value in student.state_dict().items():
        torch.testing.assert_close(merged[name], value, rtol=1e-2, atol=1e-2)  # half precision


@pytest.mark.parametrize("rank", [1, 3])
def test_what_is_left_out_is_the_energy_of_the_other_directions(rank, tmp_path):
    teacher = model()
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student[0].weight += torch.randn(40, 24)
    adapter.save(adapter.factor(student, teacher, rank), tmp_path)
    energy = torch.linalg.svdvals(student[0].weight - teacher[0].weight).square()
    expected = (energy[rank:].sum() / energy.sum()).item()
    assert adapter.left_out(student, teacher, tmp_path) == pytest.approx(expected, abs=1e-3)


def test_models_of_other_shapes_are_refused(tmp_path):
    teacher = model()
    with pytest.raises(InputError, match="a pruned student ships whole"):
        adapter.factor(nn.Sequential(nn.Linear(24, 20)), teacher, 4)
    with pytest.raises(InputError, match="rank=0 must be at least 1"):
        adapter.factor(teacher, teacher, 0)
    adapter.save(adapter.factor(changed(teacher, 1), teacher, 1), tmp_path)
    with pytest.raises(WeightsCorrupt, match="pack it anew"):
        adapter.merge(nn.Sequential(nn.Linear(24, 20)), tmp_path)
