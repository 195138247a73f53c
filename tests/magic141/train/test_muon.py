import pytest
import torch
from torch import nn

from magic141.train import muon
from magic141.train.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(64, 200), (200, 64)])
def test_orthogonal_keeps_directions_and_evens_out_sizes(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonal(matrix, torch.float32)
    inner = u.T @ found @ v.T
    sizes = inner.diagonal()
    assert sizes.min() > 0.6
    assert sizes.max() < 1.3
    torch.testing.assert_close(inner, torch.diag(sizes), atol=1e-3, rtol=0)


def test_steps_are_those_of_torch(monkeypatch):
    """Same numbers as torch.optim.Muon, up to the bfloat16 in which both iterate here."""
    monkeypatch.setattr(muon, "native_bfloat16", lambda: True)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(64, 96, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    solvers = [
        Muon([ours], lr=1e-2),
        torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(5):
        gradient = torch.randn(start.shape, generator=generator)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        for solver in solvers:
            solver.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.01 * moved
    assert moved > 0.1


def test_a_convolution_moves_as_its_matrix():
    generator = torch.Generator().manual_seed(0)
    start, gradient = (torch.randn(64, 8, 3, 3, generator=generator) for _ in range(2))
    kernel, matrix = nn.Parameter(start.clone()), nn.Parameter(start.flatten(1).clone())
    kernel.grad, matrix.grad = gradient, gradient.flatten(1)
    for weight in (kernel, matrix):
        Muon([weight], lr=1e-2).step()
    torch.testing.assert_close(kernel.flatten(1), matrix)
