"""The norm and rotation of queries and keys: what a compiler sees against the operator that runs without one."""

import pytest
import torch

from magic141.attention import Attention, QKNorm, _norm_rotate

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 0.05}


def gradients(function, dtype, turned):
    g = torch.Generator().manual_seed(0)
    qkv = torch.randn(2, 7, 3, 2, 8, generator=g).to(dtype).requires_grad_()
    norm = QKNorm(8)
    norm.weight.data.uniform_(0.5, 1.5, generator=g)
    angles = torch.rand(turned, 4, generator=g)
    rope = torch.stack([angles.cos(), angles.sin()], dim=-1)
    outputs = function(norm, qkv, rope)
    loss = sum((x.double() * torch.randn(x.shape, generator=g)).sum() for x in outputs)
    return (*outputs, *torch.autograd.grad(loss, (qkv, norm.weight)))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("turned", [0, 4, 7])
def test_what_is_compiled_is_what_runs_without_a_compiler(dtype, turned):
    ours = gradients(lambda norm, *args: norm(*args), dtype, turned)
    plain = gradients(lambda norm, qkv, rope: _norm_rotate(qkv, norm.weight, rope), dtype, turned)
    for a, b in zip(ours, plain, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a.double(), b.double(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.gpu
def test_an_accelerator_goes_back_through_attention_in_bfloat16():
    """cuDNN's attention refuses the layout that the CPU's operator leaves."""
    norm, rope = QKNorm(64).cuda(), torch.zeros(20, 32, 2, device="cuda")
    qkv = torch.randn(8, 24, 3, 4, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    Attention()(*norm(qkv, rope)).float().square().sum().backward()
    assert qkv.grad.isfinite().all()
    assert qkv.grad.abs().max() > 0
