"""What can be taken out of the transformer: groups of weights that mean something only together.

A head is its rows of `to_qkv` (of queries, keys and values) and the columns of `to_out` that read it; a hidden unit of
an MLP is its row of `mlp_in` and the column that reads it. Every block of the model has such groups, the refiner's
too. The two streams of a dual-stream block share their heads, and keep hidden units of their own. A unit of the
conditioning vector is its rows of all embedders that add to it, and its column of every modulation network: in a small
transformer those networks hold a fifth of the weights, and the vector knows little more than time and caption.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from magic141.blocks import DualStreamBlock, Modulation, RefinerBlock, SingleStreamBlock, Stream, TokenRefiner
from magic141.errors import InputError
from magic141.transformer import Magic141Transformer3DModel

HIDDEN = ".mlp"
"""How names of sites of hidden units end."""


@dataclass(frozen=True)
class Writer:
    """A layer whose outputs are (copies, count, size) by group. Those of an embedding are the columns of its table."""

    layer: nn.Linear | nn.Embedding
    count: int
    size: int = 1
    copies: int = 1

    @property
    def axis(self) -> int:
        """The axis of the weight that holds the outputs."""
        return int(isinstance(self.layer, nn.Embedding))

    def outputs(self) -> Tensor:
        """(count, copies * size), the outputs that belong to each group."""
        outputs = torch.arange(self.copies * self.count * self.size)
        return outputs.view(self.copies, self.count, self.size).transpose(0, 1).flatten(1)


@dataclass(frozen=True)
class Reader:
    """A layer whose inputs from `start` on are (count, size) by group."""

    layer: nn.Linear
    count: int
    size: int = 1
    start: int = 0

    def inputs(self) -> Tensor:
        """(count, size), the inputs that belong to each group."""
        return self.start + torch.arange(self.count * self.size).view(self.count, self.size)


@dataclass(frozen=True)
class Site:
    """`count` groups of which some can go, from all that write them and all that read them."""

    name: str
    writers: tuple[Writer, ...]
    readers: tuple[Reader, ...]

    @property
    def count(self) -> int:
        return self.readers[0].count


def sites(model: Magic141Transformer3DModel) -> Iterator[Site]:
    """Every set of groups, in the order in which the model runs through their readers."""
    yield from _conditioning("context_embedder.", model.context_embedder)
    yield from _conditioning("", model)
    yield from _in_blocks(model)


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
    """Every layer that a head or a hidden unit of a block is written or read by: those that masks thin out."""
    found: dict[nn.Module, None] = {}
    for site in _in_blocks(model):
        found |= dict.fromkeys(writer.layer for writer in site.writers)
        found |= dict.fromkeys(reader.layer for reader in site.readers)
    return [layer for layer in found if isinstance(layer, nn.Linear)]


def check_dense(model: Magic141Transformer3DModel, what: str) -> None:
    """Raises InputError where `model` is quantised: its weights are no longer numbers to choose from."""
    if getattr(model, "is_quantized", False):
        raise InputError(f"cannot {what} a quantised model: {what} first, then quantise")


def _in_blocks(model: Magic141Transformer3DModel) -> Iterator[Site]:
    """The heads and the hidden units of every block, named after their block."""
    for name, block in model.named_modules():
        if isinstance(block, DualStreamBlock):
            yield _heads(f"{name}.heads", block.video, block.text)
            yield _hidden(f"{name}.video{HIDDEN}", block.video)
            yield _hidden(f"{name}.text{HIDDEN}", block.text)
        elif isinstance(block, (SingleStreamBlock, RefinerBlock)):
            yield _heads(f"{name}.heads", block)
            yield _hidden(f"{name}{HIDDEN}", block)


def _conditioning(prefix: str, model: Magic141Transformer3DModel | TokenRefiner) -> Iterator[Site]:
    """The hidden units of the embedders of a conditioning vector, then the units of the vector itself."""
    embedders = dict(model.time_text_embed.named_children())
    del embedders["time_proj"]  # sines and cosines: no weights
    for name, embedder in embedders.items():
        count = embedder.linear_1.out_features
        writer, reader = Writer(embedder.linear_1, count), Reader(embedder.linear_2, count)
        yield Site(f"{prefix}time_text_embed.{name}", (writer,), (reader,))
    added: list[nn.Linear | nn.Embedding] = [embedder.linear_2 for embedder in embedders.values()]
    if isinstance(flag := getattr(model, "continuation_embedder", None), nn.Embedding):
        added.append(flag)
    modulations = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, Modulation) and not name.startswith("context_embedder.")
    ]
    count = modulations[0].in_features
    yield Site(
        f"{prefix}time_text_embed",
        tuple(Writer(layer, count) for layer in added),
        tuple(Reader(layer, count) for layer in modulations),
    )


def _heads(name: str, *streams: Stream | SingleStreamBlock | RefinerBlock) -> Site:
    """One and the same head in all `streams`."""
    count = streams[0].heads
    size = streams[0].to_qkv.out_features // (3 * count)
    return Site(
        name,
        tuple(Writer(stream.to_qkv, count, size, copies=3) for stream in streams),
        tuple(Reader(stream.to_out, count, size) for stream in streams),
    )


def _hidden(name: str, block: Stream | SingleStreamBlock | RefinerBlock) -> Site:
    count = block.mlp_in.out_features
    reader = block.to_out if isinstance(block, SingleStreamBlock) else block.mlp_out
    return Site(
        name,
        (Writer(block.mlp_in, count),),
        (Reader(reader, count, start=reader.in_features - count),),
    )
