"""Attention of the transformer: rotary positions, normed queries and keys, and the softmax itself.

Axes in comments: B batch, S tokens, H heads, D head width.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn as nn
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor

NORM_EPS = 1e-6
EXPLICIT_LIMIT = 2048
"""Tokens: above it, scores that are kept for training would take more memory than the speed is worth."""
CACHED = 2**21
"""Bytes of attention scores at a time: what stays in cache until the softmax and the values have read it."""
LEAST = 2**16
"""Bytes of attention scores below which five operators cost more than one saves."""


class AttentionProcessor:
    """Where diffusers plugs in `set_attention_backend` and context parallelism."""

    _attention_backend = None
    _parallel_config = None

    def __call__(self, attn: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        unset = self._attention_backend is None and self._parallel_config is None
        if unset and q.device.type == "cpu" and q.dtype == torch.bfloat16 and _explicit(q, k):
            return explicit_attention(q, k, v, mask)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = dispatch_attention_fn(
            q, k, v, attn_mask=mask, backend=self._attention_backend, parallel_config=self._parallel_config
        )
        return out.transpose(1, 2)


def _explicit(q: Tensor, k: Tensor) -> bool:
    """Whether `explicit_attention` is the faster one: 1.7 times on clips of the lab, on Zen 5 with torch 2.14."""
    if torch.is_grad_enabled() and q.requires_grad:
        return q.shape[2] <= EXPLICIT_LIMIT
    return len(q) * _score_bytes(q, k) >= LEAST and _score_bytes(q, k) <= 2 * CACHED


def _score_bytes(q: Tensor, k: Tensor) -> int:
    """Of one row of the batch."""
    return q.shape[1] * q.shape[2] * k.shape[2] * q.element_size()


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention step by step, a few rows of the batch at a time.

    On a CPU in bfloat16 the fused kernel's backward pass is far slower, and of few tokens its forward pass as well.
    """
    # A compiler plans its memory itself.
    rows = len(q) if torch.compiler.is_compiling() else max(CACHED // _score_bytes(q, k), 1)
    if len(q) <= rows:
        return _attend(q, k, v, mask)
    masks = None if mask is None else mask.expand(len(q), -1, -1, -1)
    cuts = [slice(start, start + rows) for start in range(0, len(q), rows)]
    return torch.cat([_attend(q[cut], k[cut], v[cut], None if masks is None else masks[cut]) for cut in cuts])


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if mask is not None:
        scores = scores.masked_fill_(~mask, float("-inf"))
    return scores.softmax(-1) @ v


class Attention(nn.Module, AttentionModuleMixin):
    """Softmax attention of (B, H, S, D) queries, keys and values -> (B, S, H * D); no weights of its own."""

    _default_processor_cls = AttentionProcessor
    _available_processors = [AttentionProcessor]
    _supports_qkv_fusion = False
    processor: AttentionProcessor

    def __init__(self) -> None:
        super().__init__()
        self.processor = AttentionProcessor()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.processor(self, q, k, v, mask).transpose(1, 2).flatten(2)


class RotaryEmbedding(nn.Module):
    """Angles of every video token on three axes, arXiv 2104.09864; a module so that diffusers can shard it.

    Args:
        axes_dim: channels that time, height and width turn; they sum to D.
        theta: base of the frequencies.
    """

    def __init__(self, axes_dim: tuple[int, ...], theta: float) -> None:
        super().__init__()
        self.axes_dim = tuple(axes_dim)
        self.theta = theta

    def forward(self, grid: tuple[int, int, int], device: torch.device) -> Tensor:
        """Cosine and sine, (N, D / 2, 2) float32, of a grid (time, height, width) of N tokens."""
        return _rope_table(grid, self.axes_dim, self.theta, device)


@lru_cache(maxsize=16)
def _rope_table(
    grid: tuple[int, int, int], axes_dim: tuple[int, ...], theta: float, device: torch.device
) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():  # cached: training uses what a sampling run made
        axes = torch.meshgrid(
            *(torch.arange(n, dtype=torch.float32, device=device) for n in grid), indexing="ij"
        )
        tables = [
            get_1d_rotary_pos_embed(dim, axis.reshape(-1), theta, use_real=True)
            for dim, axis in zip(axes_dim, axes, strict=True)
        ]
        cos, sin = (torch.cat([table[i][:, ::2] for table in tables], dim=1) for i in range(2))
        return torch.stack([cos, sin], dim=-1)


class QKNorm(nn.Module):
    """RMS norm of queries and keys over the head width, then rotation of the first N tokens.

    `weight` (2, D): row 0 for queries, row 1 for keys.
    """

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, head_dim))

    def forward(self, qkv: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projections qkv (B, S, 3, H, D), rope (N <= S, D / 2, 2) -> q, k and v, each (B, H, S, D)."""
        # Off the CPU too: of the layout that the one operator leaves, cuDNN's attention fails to go back (torch 2.11).
        if torch.compiler.is_compiling() or qkv.device.type != "cpu":
            return _norm_rotate(qkv, self.weight, rope)
        return _NormRotate.apply(qkv, self.weight, rope)


def _norm_rotate(qkv: Tensor, weight: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `_NormRotate` computes, for accelerators, and for a compiler to fuse.

    (Of the other's backward pass inductor made NaN: torch 2.14, CPU.)
    """
    wide = qkv[:, :, :2].to(torch.promote_types(qkv.dtype, torch.float32))
    wide = wide * torch.rsqrt(wide.float().pow(2).mean(-1, keepdim=True) + NORM_EPS) * weight[:, None]
    a, b = wide[:, : len(rope)].float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rope[:, None, None].unbind(-1)
    turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
    qk = torch.cat([turned.to(wide.dtype), wide[:, len(rope) :]], dim=1).to(qkv.dtype)
    q, k = qk.permute(2, 0, 3, 1, 4)
    return q, k, qkv[:, :, 2].transpose(1, 2)


class _NormRotate(torch.autograd.Function):
    """Norm, rotation and change of layout as one operator: autograd's backward pass takes several times longer.

    As in the reference, statistics and rotation are float32 in every dtype; the rest is float32 or wider.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, weight: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wide = qkv[:, :, :2].to(torch.promote_types(qkv.dtype, torch.float32))
        rstd = torch.rsqrt(wide.float().pow(2).mean(-1, keepdim=True) + NORM_EPS)
        ctx.save_for_backward(qkv, weight, rope, rstd)
        wide = (wide * rstd).mul_(weight[:, None])
        _rotate_(wide[:, : len(rope)], rope)
        out = torch.empty_like(qkv.permute(2, 0, 3, 1, 4), memory_format=torch.contiguous_format)
        out[:2] = wide.permute(2, 0, 3, 1, 4)
        out[2] = qkv[:, :, 2].transpose(1, 2)
        return out[0], out[1], out[2]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor) -> tuple[Tensor, Tensor, None]:
        qkv, weight, rope, rstd = ctx.saved_tensors
        normed = qkv[:, :, :2] * rstd
        grad = torch.empty_like(normed)
        grad[:, :, 0] = grad_q.transpose(1, 2)
        grad[:, :, 1] = grad_k.transpose(1, 2)
        _rotate_(grad[:, : len(rope)], rope, inverse=True)
        product = grad * normed
        grad_weight = product.sum((0, 1)).sum(1)
        mean = product.mul_(weight[:, None]).mean(-1, keepdim=True)
        grad_qkv = torch.empty_like(qkv)
        grad_qkv[:, :, :2] = grad.mul_(weight[:, None]).addcmul_(normed, mean, value=-1).mul_(rstd)
        grad_qkv[:, :, 2] = grad_v.transpose(1, 2)
        return grad_qkv, grad_weight.to(weight.dtype), None


def _rotate_(x: Tensor, rope: Tensor, inverse: bool = False) -> None:
    """Rotate pairs of channels of x (B, N, 2, H, D) by the angles of rope (N, D / 2, 2), or back, in place."""
    pairs = x.unflatten(-1, (-1, 2))
    rope = rope[:, None, None]
    if x.dtype == torch.float32:  # one pass over memory
        turn = torch.view_as_complex(rope)
        torch.view_as_complex(pairs).mul_(turn.conj() if inverse else turn)
        return
    (a, b), (cos, sin) = pairs.float().unbind(-1), rope.unbind(-1)
    sin = -sin if inverse else sin
    pairs.copy_(torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1))
