"""A sampler whose sets lie on the device: an accelerator outruns a CPU that gathers rows and encodes captions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from transformers import CLIPModel, PreTrainedTokenizerFast

from magic141.conditioning import TEXT_LENGTH, encode_ids, tokenize
from magic141.train.flow import CUT, DROPPED, OBJECT_WORDS, Batch, Sampler
from magic141.train.latents import LatentSet, SetSpec


@dataclass(frozen=True)
class Held:
    """A set on the device; its arrays are those of `LatentSet`. ids: int16 (N, windows, 40), of the captions."""

    latents: Tensor
    image_tokens: Tensor
    cover: Tensor
    ids: Tensor


class ResidentSampler(Sampler):
    """Draws what `Sampler` draws, from sets that it moves to the device at their first use (25 kB a clip)."""

    def __init__(
        self, clip: CLIPModel, tokenizer: PreTrainedTokenizerFast, device: str, dropped: float = DROPPED
    ) -> None:
        super().__init__(clip, tokenizer, device, dropped)
        self._empty = tokenize(tokenizer, "")[0].to(device)
        self._held: dict[tuple[SetSpec, int, int], Held] = {}

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
        windows = source.spec.latent_frames - frames + 1 if inside else 1
        held = self._hold(source, windows)
        rows, offsets = self.places(source, count, generator, frames, inside)
        chance = torch.rand(count, 2, generator=generator).to(self.device)
        rows, offsets = rows.to(self.device), offsets.to(self.device)
        where = (rows[:, None], offsets[:, None] + torch.arange(frames, device=self.device))
        tokens, pooled = encode_ids(self.clip, self._shown_ids(held.ids[rows, offsets].long(), chance))
        return Batch(
            latents=held.latents[where].float().transpose(1, 2).contiguous(),
            known=known,
            continuation=torch.full((count,), inside, device=self.device),
            text_tokens=tokens.float(),
            pooled=pooled.float(),
            image_tokens=held.image_tokens[rows].float() if image_tokens else None,
            cover=held.cover[where].float() / 255,
        )

    def _shown_ids(self, ids: Tensor, chance: Tensor) -> Tensor:
        """Of captions (B, 40): all words, none, or the first, as `chance` (B, 2) says; `Sampler._shown` in one go."""
        _, end, pad = self._empty[:3]
        words = (ids != pad).sum(-1) - 2
        cut = OBJECT_WORDS + (chance[:, 1] * (words - OBJECT_WORDS)).long()
        left = torch.where(chance[:, 0] < self.dropped + CUT, cut, words)
        left = torch.where(chance[:, 0] < self.dropped, 0, left)[:, None]
        place = torch.arange(TEXT_LENGTH, device=ids.device)
        return torch.where(place <= left, ids, torch.where(place == left + 1, end, pad))

    def _hold(self, source: LatentSet, windows: int) -> Held:
        """The set on the device, with captions of the windows that begin at its first `windows` latent frames."""
        key = (source.spec, len(source), windows)
        if key not in self._held:
            ids = np.empty((len(source), windows, TEXT_LENGTH), np.int16)
            for row in track(range(len(source)), f"captions of {source.spec.folder}"):
                captions = [source.caption(row, max(4 * offset - 3, 0)) for offset in range(windows)]
                ids[row] = tokenize(self.tokenizer, captions).numpy()
            arrays = (source.latents, source.image_tokens, source.cover, ids)
            self._held[key] = Held(*(torch.from_numpy(np.array(part)).to(self.device) for part in arrays))
        return self._held[key]


def sampler_on(
    device: str, clip: CLIPModel, tokenizer: PreTrainedTokenizerFast, dropped: float = DROPPED
) -> Sampler:
    """The one that suits `device`: memory-mapped sets for a CPU, resident ones for anything else."""
    kind = Sampler if torch.device(device).type == "cpu" else ResidentSampler
    return kind(clip, tokenizer, device, dropped)
