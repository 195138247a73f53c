"""A sampler whose sets lie on the device: an accelerator outruns a CPU that gathers rows and encodes captions."""

from __future__ import annotations

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from transformers import CLIPModel, PreTrainedTokenizerFast

from magic141.conditioning import TEXT_LENGTH, encode_ids, tokenize
from magic141.train.flow import CUT, DROPPED, OBJECT_WORDS, Sampler
from magic141.train.latents import LatentSet, SetSpec


class ResidentSampler(Sampler):
    """Draws what `Sampler` draws, from sets that it moves to the device at their first use (25 kB a clip)."""

    def __init__(
        self, clip: CLIPModel, tokenizer: PreTrainedTokenizerFast, device: str, dropped: float = DROPPED
    ) -> None:
        super().__init__(clip, tokenizer, device, dropped)
        self._empty = tokenize(tokenizer, "")[0].to(device)
        self._arrays: dict[tuple[SetSpec, int, str], Tensor] = {}
        self._captions: dict[tuple[SetSpec, int, int], Tensor] = {}

    def _text(
        self, source: LatentSet, rows: Tensor, offsets: Tensor, begins: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        key = (source.spec, len(source), begins)
        if key not in self._captions:
            self._captions[key] = self._read(source, begins).to(self.device)
        ids = self._captions[key][rows.to(self.device), offsets.to(self.device)].long()
        chance = torch.rand(len(rows), 2, generator=generator).to(self.device)
        tokens, pooled = encode_ids(self.clip, self._shown_ids(ids, chance))
        return tokens.float(), pooled.float()

    def _take(self, source: LatentSet, name: str, where: tuple[Tensor, ...]) -> Tensor:
        key = (source.spec, len(source), name)
        if key not in self._arrays:
            self._arrays[key] = torch.from_numpy(np.array(getattr(source, name))).to(self.device)
        return self._arrays[key][tuple(part.to(self.device) for part in where)].float()

    def _shown_ids(self, ids: Tensor, chance: Tensor) -> Tensor:
        """Of captions (B, 40): all words, none, or the first, as `chance` (B, 2) says; `Sampler._shown` in one go."""
        _, end, pad = self._empty[:3]
        words = (ids != pad).sum(-1) - 2
        cut = OBJECT_WORDS + (chance[:, 1] * (words - OBJECT_WORDS)).long()
        left = torch.where(chance[:, 0] < self.dropped + CUT, cut, words)
        left = torch.where(chance[:, 0] < self.dropped, 0, left)[:, None]
        place = torch.arange(TEXT_LENGTH, device=ids.device)
        return torch.where(place <= left, ids, torch.where(place == left + 1, end, pad))

    def _read(self, source: LatentSet, begins: int) -> Tensor:
        """Token ids, int16 (N, begins, 40), of the captions of all windows."""
        ids = torch.empty(len(source), begins, TEXT_LENGTH, dtype=torch.int16)
        for row in track(range(len(source)), f"captions of {source.spec.folder}"):
            ids[row] = tokenize(self.tokenizer, [source.caption(row, offset) for offset in range(begins)])
        return ids


def sampler_on(
    device: str, clip: CLIPModel, tokenizer: PreTrainedTokenizerFast, dropped: float = DROPPED
) -> Sampler:
    """The one that suits `device`: memory-mapped sets for a CPU, resident ones for anything else."""
    kind = Sampler if torch.device(device).type == "cpu" else ResidentSampler
    return kind(clip, tokenizer, device, dropped)
