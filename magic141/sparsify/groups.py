"""What can be taken out of the transformer: groups of weights that mean something only together.

A head is its rows of `to_qkv` (of queries, keys and values) and the columns of `to_out` that read it; a hidden unit of
an MLP is its row of `mlp_in` and the column that reads it. Every block of the model has such groups, the refiner's
too. The two streams of a dual-stream block share their heads, and keep hidden units of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from magic141.blocks import DualStreamBlock, RefinerBlock, SingleStreamBlock, Stream
from magic141.errors import InputError
from magic141.transformer import Magic141Transformer3DModel


@dataclass(frozen=True)
class Part:
    """`count` groups inside two layers.

    writer: its rows are (copies, count, size). reader: its columns from `start` on are (count, size).
    """

    writer: nn.Linear
    reader: nn.Linear
    start: int
    copies: int
    count: int
    size: int

    def rows(self) -> Tensor:
        """(count, copies * size), the rows of the writer that belong to each group."""
        rows = torch.arange(self.copies * self.count * self.size)
        return rows.view(self.copies, self.count, self.size).transpose(0, 1).flatten(1)

    def columns(self) -> Tensor:
        """(count, size), the columns of the reader that belong to each group."""
        return self.start + torch.arange(self.count * self.size).view(self.count, self.size)


@dataclass(frozen=True)
class Site:
    """Groups of which some can go: with two parts, a group is one and the same head in both streams."""

    name: str
    parts: tuple[Part, ...]

    @property
    def count(self) -> int:
        return self.parts[0].count


def sites(model: Magic141Transformer3DModel) -> Iterator[Site]:
    """The heads and the hidden units of every block, named after their block."""
    for name, block in model.named_modules():
        if isinstance(block, DualStreamBlock):
            yield Site(f"{name}.heads", (_heads(block.video), _heads(block.text)))
            yield Site(f"{name}.video.mlp", (_hidden(block.video),))
            yield Site(f"{name}.text.mlp", (_hidden(block.text),))
        elif isinstance(block, (SingleStreamBlock, RefinerBlock)):
            yield Site(f"{name}.heads", (_heads(block),))
            yield Site(f"{name}.mlp", (_hidden(block),))


def blocks(model: Magic141Transformer3DModel) -> dict[str, tuple[nn.Linear, ...]]:
    """The layers of every block through which it writes to the residual stream, dual-stream blocks first."""
    writers = {}
    for name, block in model.named_modules():
        if isinstance(block, DualStreamBlock):
            streams = (block.video, block.text)
            writers[name] = tuple(layer for stream in streams for layer in (stream.to_out, stream.mlp_out))
        elif isinstance(block, SingleStreamBlock):
            writers[name] = (block.to_out,)
    return writers


def layers(model: Magic141Transformer3DModel) -> list[nn.Linear]:
    """Every layer that a site writes or reads: those that masks thin out."""
    parts = [part for site in sites(model) for part in site.parts]
    return list(dict.fromkeys(layer for part in parts for layer in (part.writer, part.reader)))


def check_dense(model: Magic141Transformer3DModel, what: str) -> None:
    """Raises InputError where `model` is quantised: its weights are no longer numbers to choose from."""
    if getattr(model, "is_quantized", False):
        raise InputError(f"cannot {what} a quantised model: {what} first, then quantise")


def _heads(block: Stream | SingleStreamBlock | RefinerBlock) -> Part:
    size = block.to_qkv.out_features // (3 * block.heads)
    return Part(block.to_qkv, block.to_out, start=0, copies=3, count=block.heads, size=size)


def _hidden(block: Stream | SingleStreamBlock | RefinerBlock) -> Part:
    width = block.mlp_in.out_features
    reader = block.to_out if isinstance(block, SingleStreamBlock) else block.mlp_out
    return Part(block.mlp_in, reader, start=reader.in_features - width, copies=1, count=width, size=1)
