"""Flow matching on stored latents: what the stages `t2i` and `i2v` have in common.

`x_t = (1 - t) x0 + t eps`, and the transformer learns `v = eps - x0` (Lipman et al. 2023, arXiv 2210.02747).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel, PreTrainedTokenizerFast

from magic141.conditioning import encode_ids, known_channels, prior, tokenize, unit, visible
from magic141.errors import InputError
from magic141.presets import LAB
from magic141.resume import DAMAGED
from magic141.scheduler import interpolate, shift_time
from magic141.train.latents import LatentSet
from magic141.transformer import Magic141Transformer3DModel, Magic141TransformerOutput

DROPPED = 0.1
CUT = 0.1
"""Share of captions of which only the first words are shown, the object at least: people ask for less than captions
say, and of texts that it has never seen, guidance makes noise."""
OBJECT_WORDS = 4
OBJECT_WEIGHT = 6.0
"""Extra weight of a token that objects cover whole, early in training from scratch. Only there: it depends on x0, so
the velocity of least cost puts objects into a token at seven times their odds, and sampling draws one object twice."""
PLACE_BLOCK = 3
"""Block whose video tokens must tell where objects are, while training: the last but one. Where an object is in one
frame follows from all others, and each block brings half of what still lacks: linear probes of blocks 0, 1 and 2 of a
model that was told in block 2 were off by 1.08, 0.62 and 0.34 nats (known first frame, t from 0.7 to 0.8)."""
PLACE_WEIGHT = 0.6
FOCUS = 1.0
"""Extra weight of where the model thinks that objects are, over where it thinks that nothing is, in units of an even
spread. A function of x_t alone, so the velocity of least cost is what it was; but objects are a tenth of a frame, and
without it their shapes, a hundredth of the cost, are learned last."""
CELLS = 4
"""Cells a side into which a token is divided for it."""


@dataclass(frozen=True)
class Batch:
    """A training batch.

    latents: (B, 16, t, 8, 8). known: how many first latent frames are given. continuation: (B,), whether the
    window lies inside a longer video. text_tokens (B, L, 128), pooled (B, 128); image_tokens (B, 16, 128) or none.
    cover: (B, t, 16, 16), the share of each cell of 4 x 4 pixels that objects cover.
    """

    latents: Tensor
    known: int
    continuation: Tensor
    text_tokens: Tensor
    pooled: Tensor
    image_tokens: Tensor | None
    cover: Tensor


class Denoiser(nn.Module):
    """The transformer and, beside it, a head on one of its last blocks that training drops at the end.

    From noisy tokens the head tells how objects are spread over the cells of their frame, 4 x 4 cells a token: a
    shortcut to structure that pays at small scale (as REPA, arXiv 2410.06940, with the truth instead of a pretrained
    encoder). Velocities alone are mostly background. One distribution a frame, because tokens must agree: where each
    told its own outlines, they drew one object twice.
    """

    def __init__(self, image_condition_type: str | None = LAB.transformer.image_condition_type) -> None:
        super().__init__()
        config = replace(LAB.transformer, image_condition_type=image_condition_type)
        self.transformer = Magic141Transformer3DModel(**asdict(config))
        width = LAB.transformer.num_attention_heads * LAB.transformer.attention_head_dim
        self.place = nn.Linear(width, CELLS**2)

    def forward(
        self,
        batch: Batch,
        shift: float,
        condition_noise: float,
        generator: torch.Generator,
        object_weight: float = 0.0,
    ) -> dict[str, Tensor]:
        """Loss terms of one batch; `condition_noise` is the largest noise on the given frames, and `object_weight` the
        extra weight of tokens that objects cover.
        """
        x0 = batch.latents
        t = times(len(x0), shift, generator).to(x0.device)
        eps = normal(x0, generator)
        clean = x0[:, :, : batch.known]
        shown = worn(clean, condition_noise, generator)
        output = ask(self.transformer, batch, shown, interpolate(x0, eps, t), t, PLACE_BLOCK)
        # Only unknown frames are learned: what is given costs nothing.
        error = (output.sample.float() - (eps - x0)).square().mean(1)[:, batch.known :]
        token_cover = F.avg_pool2d(batch.cover, CELLS)
        cover = F.interpolate(token_cover, scale_factor=2, mode="nearest")[:, batch.known :]
        cells = F.pixel_unshuffle(batch.cover.unsqueeze(2), CELLS).movedim(2, -1).flatten(2)
        told = self.place(output.features[0]).float().view_as(cells)
        weight = 1 + object_weight * cover + FOCUS * density(told.detach(), error.shape[-1])[:, batch.known :]
        flow = (weight * error).sum() / weight.sum()
        place = spread(told, cells)
        # Nearly pure noise tells nothing about places, but a first frame and a caption do: where objects will go.
        place = place.mean() if batch.known else (place * (1 - t)[:, None]).mean()
        return {"loss": flow + PLACE_WEIGHT * place, "v": error.detach().mean(), "place": place.detach()}


def ask(
    transformer: Magic141Transformer3DModel,
    batch: Batch,
    shown: Tensor,
    x_t: Tensor,
    t: Tensor,
    *layers: int,
) -> Magic141TransformerOutput:
    """What `transformer` says of x_t at times (B,) under the conditions of `batch`, of whose known frames it sees
    `shown` (B, 16, known, 8, 8); with the features after `layers`.
    """
    kind = transformer.config.image_condition_type
    image_tokens, seen = visible(kind, batch.image_tokens, shown)
    return transformer(
        torch.cat([x_t, known_channels(x_t, seen)], dim=1),
        1000 * t,
        prior(batch.text_tokens, image_tokens),
        pooled_projections=batch.pooled,
        continuation=batch.continuation,
        feature_layers=layers,
    )


def worn(given: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Frames (B, C, t, h, w) with noise of a strength up to `most`: at generation what is given is generated."""
    strength = most * torch.rand(len(given), 1, 1, 1, 1, generator=generator)
    return given + strength.to(given.device) * normal(given, generator)


def read_denoiser(
    path: Path, image_condition_type: str | None = LAB.transformer.image_condition_type
) -> Denoiser:
    """What a stage left in the file `path`. Raises InputError where that is no denoiser."""
    denoiser = Denoiser(image_condition_type)
    try:
        denoiser.load_state_dict(torch.load(path, weights_only=True))
    except DAMAGED as error:
        raise InputError(f"{path} is no denoiser: name the denoiser.pt that stage t2i or i2v left") from error
    return denoiser


def spread(logits: Tensor, cover: Tensor) -> Tensor:
    """Divergence (B, t) of the predicted distribution from `cover` (B, t, cells), 0 where a frame shows no object."""
    total = cover.sum(-1, keepdim=True)
    return F.kl_div(logits.log_softmax(-1), cover / total.clamp(min=1e-6), reduction="none").sum(-1)


def density(told: Tensor, side: int) -> Tensor:
    """What the head told (B, t, cells) as a density (B, t, side, side) on the latent's grid, 1 where it is even."""
    share = told.softmax(-1).unflatten(-1, (-1, CELLS**2)).movedim(-1, 2)
    tokens = math.isqrt(share.shape[-1])
    fine = F.pixel_shuffle(share.unflatten(-1, (tokens, tokens)), CELLS)
    return told.shape[-1] * F.adaptive_avg_pool2d(fine.squeeze(2), side)


def times(count: int, shift: float, generator: torch.Generator) -> Tensor:
    """Logit-normal times in (0, 1), shifted (Esser et al. 2024, arXiv 2403.03206)."""
    return shift_time(torch.sigmoid(torch.randn(count, generator=generator)), shift)


class Sampler:
    """Draws batches from stored latents onto a device, and encodes their captions on the way.

    dropped: share of captions replaced by the empty one, for classifier-free guidance. A share `CUT` is cut short.
    """

    def __init__(
        self,
        clip: CLIPModel,
        tokenizer: PreTrainedTokenizerFast,
        device: str = "cpu",
        dropped: float = DROPPED,
    ) -> None:
        self.clip, self.tokenizer, self.device, self.dropped = clip.to(device), tokenizer, device, dropped
        self._ids: dict[str, Tensor] = {}

    def draw(
        self,
        source: LatentSet,
        count: int,
        generator: torch.Generator,
        *,
        frames: int,
        known: int,
        inside: bool = False,
        image_tokens: bool = True,
    ) -> Batch:
        """`count` windows of `frames` latent frames, `known` of them given; from frame 0, or from `inside`."""
        begins = source.spec.latent_frames - frames + 1 if inside else 1
        rows = torch.randint(len(source), (count,), generator=generator)
        offsets = torch.zeros(count, dtype=torch.long)
        if inside:
            offsets = torch.randint(1, begins, (count,), generator=generator)
        tokens, pooled = self._text(source, rows, offsets, begins, generator)
        where = (rows[:, None], offsets[:, None] + torch.arange(frames))
        return Batch(
            latents=self._take(source, "latents", where).transpose(1, 2).contiguous(),
            known=known,
            continuation=torch.full((count,), inside, device=self.device),
            text_tokens=tokens,
            pooled=pooled,
            image_tokens=self._take(source, "image_tokens", (rows,)) if image_tokens else None,
            cover=self._take(source, "cover", where) / 255,
        )

    def _text(
        self, source: LatentSet, rows: Tensor, offsets: Tensor, begins: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Text of the windows that begin at latent frames `offsets` (B,) of `rows` (B,), all below `begins`."""
        places = zip(rows.tolist(), offsets.tolist(), strict=True)
        return self.encode([source.caption(row, offset) for row, offset in places], generator)

    def _take(self, source: LatentSet, name: str, where: tuple[Tensor, ...]) -> Tensor:
        """What the array `name` of a set holds at `where`, on the device."""
        array: np.ndarray = getattr(source, name)
        return torch.from_numpy(array[tuple(part.numpy() for part in where)]).to(self.device).float()

    def encode(self, captions: list[str], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Text tokens and pooled text, a share of them of the empty caption instead, or of the first words."""
        draw = torch.rand(len(captions), 2, generator=generator).tolist()
        shown = [self._shown(caption, *pair) for caption, pair in zip(captions, draw, strict=True)]
        for new in set(shown).difference(self._ids):
            self._ids[new] = tokenize(self.tokenizer, new)[0]
        tokens, pooled = encode_ids(self.clip, torch.stack([self._ids[text] for text in shown]))
        return tokens.float(), pooled.float()

    def _shown(self, caption: str, what: float, share: float) -> str:
        """`caption`, nothing, or its first words; `what` and `share` are uniform draws."""
        if what < self.dropped:
            return ""
        words = caption.split()
        if what < self.dropped + CUT:
            words = words[: OBJECT_WORDS + int(share * (len(words) - OBJECT_WORDS))]
        return " ".join(words)


def noised_tokens(tokens: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Image tokens with noise: at generation the image is generated, not true."""
    return unit(tokens + strength * normal(tokens, generator))


def normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of the shape of `like`, where that is, from a generator of the CPU.

    CUDA draws its own from a seed of that generator: to draw on the CPU takes longer than a pass there.
    """
    if not like.is_cuda:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
    seed = int(torch.randint(1 << 62, (), generator=generator))
    own = torch.Generator(like.device).manual_seed(seed)
    return torch.randn(like.shape, generator=own, dtype=like.dtype, device=like.device)
