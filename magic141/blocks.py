"""The blocks of the transformer: dual stream, single stream, and the refiner of text tokens.

Axes in comments: B batch, S tokens, H heads, D head width, C = H * D.
"""

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers.models.embeddings import CombinedTimestepTextProjEmbeddings
from torch import Tensor

from magic141.attention import NORM_EPS, Attention, QKNorm
from magic141.errors import InputError

REFINER_MLP_RATIO = 4.0
WIDE, ALIGNED = 64, 16
"""Of `kept`: no preset has as many heads or blocks as `WIDE`, and none has narrower layers."""


class Modulation(nn.Linear):
    """`count` modulation vectors from the conditioning vector, zero at first (adaLN-Zero, arXiv 2212.09748)."""

    def __init__(self, cond_dim: int, dim: int, count: int) -> None:
        super().__init__(cond_dim, count * dim)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights, then `(1 + scale) x + shift`."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=NORM_EPS), 1 + scale)


class ModulatedBlock(nn.Module):
    """What both kinds of block share: where their `count` modulation vectors come from."""

    def __init__(self, cond_dim: int, dim: int, count: int, shared_modulation: bool) -> None:
        super().__init__()
        self.count = count
        self.shared_modulation = shared_modulation
        if shared_modulation:
            self.modulation_offset = nn.Parameter(torch.zeros(count * dim))
        else:
            self.modulation = Modulation(cond_dim, dim, count)

    def modulations(self, vec: Tensor) -> Sequence[Tensor]:
        """From the conditioning (B, cond_dim), or the shared network's output (B, count * C): each (B, 1, C)."""
        mods = vec + self.modulation_offset if self.shared_modulation else self.modulation(vec)
        return mods.unsqueeze(1).chunk(self.count, dim=-1)


class Stream(nn.Module):
    """The weights that one modality (video or text) has of its own in a dual-stream block."""

    def __init__(self, dim: int, heads: int, head_dim: int, mlp_dim: int, activation_fn: str) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * heads * head_dim)
        self.norm_qk = QKNorm(head_dim)
        self.to_out = nn.Linear(heads * head_dim, dim)
        self.mlp_in = nn.Linear(dim, mlp_dim)
        self.act = activation(activation_fn)
        self.mlp_out = nn.Linear(mlp_dim, dim)

    def qkv(self, x: Tensor, mods: Sequence[Tensor], rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, S, C) -> queries, keys and values (B, H, S, D)."""
        qkv = self.to_qkv(modulate(x, mods[0], mods[1]))
        return self.norm_qk(qkv.unflatten(-1, (3, self.heads, -1)), rope)

    def close(self, x: Tensor, attn: Tensor, mods: Sequence[Tensor]) -> Tensor:
        """Add the attention's output and the MLP's to the residual stream x."""
        gate, shift, scale, mlp_gate = mods[2:]
        x = torch.addcmul(x, gate, self.to_out(attn))
        return torch.addcmul(x, mlp_gate, self.mlp_out(self.act(self.mlp_in(modulate(x, shift, scale)))))


class DualStreamBlock(ModulatedBlock):
    """Video and text have their own weights and meet in one attention."""

    def __init__(
        self,
        cond_dim: int,
        dim: int,
        heads: int,
        head_dim: int,
        mlp_dim: int,
        activation_fn: str,
        shared_modulation: bool,
    ) -> None:
        super().__init__(cond_dim, dim, 12, shared_modulation)
        self.video = Stream(dim, heads, head_dim, mlp_dim, activation_fn)
        self.text = Stream(dim, heads, head_dim, mlp_dim, activation_fn)
        self.attn = Attention()

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        vec: Tensor,
        rope: Tensor,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        mods = self.modulations(vec)
        video = self.video.qkv(hidden_states, mods[:6], rope)
        text = self.text.qkv(encoder_hidden_states, mods[6:], rope[:0])
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(video, text, strict=True))
        sizes = (hidden_states.shape[1], encoder_hidden_states.shape[1])
        video_attn, text_attn = self.attn(q, k, v, mask).split(sizes, dim=1)
        hidden_states = self.video.close(hidden_states, video_attn, mods[:6])
        encoder_hidden_states = self.text.close(encoder_hidden_states, text_attn, mods[6:])
        return hidden_states, encoder_hidden_states


class SingleStreamBlock(ModulatedBlock):
    """Attention and MLP side by side over the joint sequence [video, text]."""

    def __init__(
        self,
        cond_dim: int,
        dim: int,
        heads: int,
        head_dim: int,
        mlp_dim: int,
        activation_fn: str,
        shared_modulation: bool,
    ) -> None:
        super().__init__(cond_dim, dim, 3, shared_modulation)
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * heads * head_dim)
        self.norm_qk = QKNorm(head_dim)
        self.mlp_in = nn.Linear(dim, mlp_dim)
        self.act = activation(activation_fn)
        self.to_out = nn.Linear(heads * head_dim + mlp_dim, dim)
        self.attn = Attention()

    def forward(self, hidden_states: Tensor, vec: Tensor, rope: Tensor, mask: Tensor | None) -> Tensor:
        shift, scale, gate = self.modulations(vec)
        x = modulate(hidden_states, shift, scale)
        q, k, v = self.norm_qk(self.to_qkv(x).unflatten(-1, (3, self.heads, -1)), rope)
        attn = self.attn(q, k, v, mask)
        out = self.to_out(torch.cat([attn, self.act(self.mlp_in(x))], dim=-1))
        return torch.addcmul(hidden_states, gate, out)


class RefinerBlock(nn.Module):
    """Self-attention and MLP over text tokens, gated by the refiner's own conditioning vector."""

    def __init__(self, cond_dim: int, dim: int, heads: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.to_qkv = nn.Linear(dim, 3 * heads * head_dim)
        self.to_out = nn.Linear(heads * head_dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp_in = nn.Linear(dim, mlp_dim)
        self.mlp_out = nn.Linear(mlp_dim, dim)
        self.modulation = Modulation(cond_dim, dim, 2)
        self.attn = Attention()

    def forward(self, x: Tensor, vec: Tensor, mask: Tensor | None) -> Tensor:
        gate, mlp_gate = self.modulation(vec).unsqueeze(1).chunk(2, dim=-1)
        q, k, v = self.to_qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = torch.addcmul(x, gate, self.to_out(self.attn(q, k, v, mask)))
        return torch.addcmul(x, mlp_gate, self.mlp_out(F.silu(self.mlp_in(self.norm2(x)))))


class TokenRefiner(nn.Module):
    """Text tokens (B, L, text width) -> (B, L, C), modulated by time and the mean token."""

    def __init__(
        self,
        text_dim: int,
        cond_dim: int,
        dim: int,
        heads: int,
        head_dim: int,
        mlp_dim: int,
        num_layers: int,
    ) -> None:
        super().__init__()
        self.time_text_embed = CombinedTimestepTextProjEmbeddings(cond_dim, text_dim)
        self.proj_in = nn.Linear(text_dim, dim)
        self.blocks = nn.ModuleList(
            RefinerBlock(cond_dim, dim, heads, head_dim, mlp_dim) for _ in range(num_layers)
        )

    def forward(self, text: Tensor, timestep: Tensor, mask: Tensor | None) -> Tensor:
        attention_mask = None
        if mask is None:
            mean = text.mean(dim=1)
        else:
            valid = mask.unsqueeze(-1).float()
            mean = ((text * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)).to(text.dtype)
            attention_mask = mask[:, None, None, :] & mask[:, None, :, None]
            attention_mask[..., 0] = True  # so that no row is empty: padding attends to the first token
        vec = F.silu(self.time_text_embed(timestep, mean))
        x = self.proj_in(text)
        for block in self.blocks:
            x = block(x, vec, attention_mask)
        return x


def activation(name: str) -> nn.Module:
    """The MLP's activation by its diffusers name."""
    known = {"gelu": nn.GELU(), "gelu-approximate": nn.GELU(approximate="tanh")}
    if name not in known:
        raise InputError(f"activation_fn={name!r} is unknown; use one of {', '.join(known)}")
    return known[name]


def kept(count: int, ratio: float) -> int:
    """How many of `count` heads, units or blocks remain when the share `ratio` of them is pruned.

    From `WIDE` on they are the width of a matrix: then they are cut to a multiple of `ALIGNED`, for its kernels' sake.

    Raises InputError: ratio outside [0, 1).
    """
    if not 0 <= ratio < 1:
        raise InputError(
            f"{ratio=} must lie in [0, 1): it is the share that is removed, and something must stay"
        )
    left = count - int(ratio * count)
    return left if left == count or count < WIDE else max(left // ALIGNED, 1) * ALIGNED
