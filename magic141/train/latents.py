"""Encodes lab scenes once, so that the transformer's training neither renders nor encodes.

Three sets on disk, each a folder of memory-mapped arrays: `images` (first frames), `clips` (33 frames from the start)
and `long` (97 frames, of which training takes windows that continue). Writing is resumed where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn
from transformers import CLIPModel

from magic141.autoencoder import GROUP, AutoencoderMagic141
from magic141.conditioning import IMAGE_TOKENS, WIDTH, encode_image
from magic141.data.factors import FRAME_SIZE
from magic141.data.render import masks, render
from magic141.data.world import Scene, World
from magic141.errors import InputError
from magic141.resume import damaged
from magic141.train.loop import autocast
from magic141.train.vae import to_model

Mode = Literal["r", "r+", "w+"]

CELL = 4
"""Pixels a side of the cells in which coverage is stored; a transformer token has 4 x 4 of them."""
WORLD = World()


@dataclass(frozen=True)
class SetSpec:
    """A set: latent frames of each sequence, the number of its first scene in the training split, and its world.

    stated: shares of hidden factors that captions state, of which rows take turns; unless given, that of the world.
    """

    name: str
    latent_frames: int
    first: int
    world: World = WORLD
    stated: tuple[float, ...] = ()

    @property
    def frames(self) -> int:
        return 1 + GROUP * (self.latent_frames - 1)

    @property
    def folder(self) -> str:
        """Its name, and whether its world has no events; what captions state is no part of what is encoded."""
        return self.name if self.world.events else f"{self.name}-events0"


IMAGES = SetSpec("images", 1, 2_000_000)
CLIPS = SetSpec("clips", 9, 0)
LONG = SetSpec("long", 25, 1_000_000)


@dataclass(frozen=True)
class LatentSet:
    """One encoded set, memory-mapped.

    latents: float16 (N, t, 16, 8, 8). image_tokens: float16 (N, 16, 128), of frame 0.
    cover: uint8 (N, t, 16, 16), the share of each cell's pixels that the objects cover, in 1/255.
    """

    spec: SetSpec
    latents: np.ndarray
    image_tokens: np.ndarray
    cover: np.ndarray

    def __len__(self) -> int:
        return len(self.latents)

    def scene(self, row: int) -> Scene:
        return self.spec.world.scene("train", self.spec.first + row)

    def caption(self, row: int, offset: int) -> str:
        """Of the window that begins at latent frame `offset`."""
        spec = self.spec
        world = replace(spec.world, stated=spec.stated[row % len(spec.stated)]) if spec.stated else spec.world
        return _caption(world, spec.first + row, max(GROUP * offset - GROUP + 1, 0))


@lru_cache(maxsize=1 << 19)
def _caption(world: World, index: int, frame: int) -> str:
    return world.scene("train", index).caption(frame)


def coverage(mask: Tensor) -> Tensor:
    """Object masks (B, T, 64, 64) from the start of a clip -> share of each cell (B, t, 16, 16) that they cover."""
    share = F.avg_pool2d(mask.float(), CELL)
    first, later = share[:, :1], share[:, 1:]
    return torch.cat([first, later.unflatten(1, (-1, GROUP)).mean(2)], dim=1)


def open_set(folder: Path, spec: SetSpec, count: int, mode: Mode = "r") -> LatentSet:
    """Map the arrays of a set of `count` sequences; mode "w+" makes them."""
    shapes = {
        "latents": ((count, spec.latent_frames, 16, 8, 8), np.float16),
        "image_tokens": ((count, IMAGE_TOKENS, WIDTH), np.float16),
        "cover": ((count, spec.latent_frames, *[FRAME_SIZE // CELL] * 2), np.uint8),
    }
    where = folder / spec.folder
    where.mkdir(parents=True, exist_ok=True)
    try:
        arrays = {
            name: np.lib.format.open_memmap(where / f"{name}.npy", mode, dtype, shape)
            if mode == "w+"
            else np.load(where / f"{name}.npy", mmap_mode=mode)[:count]  # rows beyond may not be written yet
            for name, (shape, dtype) in shapes.items()
        }
    except (OSError, ValueError, EOFError) as error:
        raise damaged(where, error) from error
    return LatentSet(spec, **arrays)


@torch.inference_mode()
def encode_set(
    folder: Path, spec: SetSpec, count: int, vae: AutoencoderMagic141, clip: CLIPModel, batch: int = 32
) -> LatentSet:
    """Render and encode `count` scenes of a set into `folder`, on the device of `vae`.

    A set already complete is only opened, one cut short is resumed, and a smaller one grows.

    Raises InputError where the set is begun with another autoencoder or image encoder.
    """
    marker = folder / spec.folder / "done.json"
    made_by = encoders_sha256(vae, clip)
    try:
        found: dict[str, Any] = json.loads(marker.read_text()) if marker.exists() else {}
    except json.JSONDecodeError as error:
        raise damaged(marker.parent, error) from error
    done = found.get("rows", 0)
    if found.get("encoders", made_by) != made_by:
        raise InputError(
            f"{marker.parent} holds latents of other weights (sha256 {found['encoders'][:12]}…, and these are "
            f"{made_by[:12]}…): delete it, or give another --out"
        )
    if done >= count:
        return open_set(folder, spec, count)
    target = _grown(folder, spec, count) if done else open_set(folder, spec, count, "w+")
    device = vae.device
    for first in track(range(done, count, batch), f"encode {spec.folder}"):
        rows = slice(first, min(first + batch, count))
        scenes = [target.scene(row) for row in range(rows.start, rows.stop)]
        video = to_model(render(scenes, spec.frames, device=device))
        with autocast(str(device)):
            latents = vae.encode(video.contiguous())
        cover = coverage(masks(scenes, spec.frames, device=device))
        target.latents[rows] = latents.transpose(1, 2).float().cpu().numpy()
        target.image_tokens[rows] = encode_image(clip, video[:, :, 0]).float().cpu().numpy()
        target.cover[rows] = (cover * 255).round().to(torch.uint8).cpu().numpy()
        marker.with_suffix(".tmp").write_text(json.dumps({"rows": rows.stop, "encoders": made_by}))
        os.replace(marker.with_suffix(".tmp"), marker)
    return open_set(folder, spec, count)


def encode_sets(
    folder: Path,
    specs: Iterable[SetSpec],
    stored: int,
    world: World,
    vae: AutoencoderMagic141,
    clip: CLIPModel,
) -> dict[str, LatentSet]:
    """By name, `specs` of `world`: `stored` clips, thrice as many images, an eighth as many long clips."""
    counts = {IMAGES.name: 3 * stored, CLIPS.name: stored, LONG.name: stored // 8}
    return {
        spec.name: encode_set(folder, replace(spec, world=world), counts[spec.name], vae.eval(), clip.eval())
        for spec in dict.fromkeys(specs)
    }


def encoders_sha256(vae: AutoencoderMagic141, clip: CLIPModel) -> str:
    """What stored latents were made by, and what a transformer that learned from them belongs to."""
    return rounded_sha256((vae, torch.float16), (clip, torch.bfloat16))


def rounded_sha256(*parts: tuple[nn.Module, torch.dtype]) -> str:
    """Of the weights of `parts`, each rounded to its type of 16 bits as `pack` rounds it: packing changes nothing."""
    digest = hashlib.sha256()
    for model, dtype in parts:
        for name, tensor in sorted(model.state_dict().items()):
            rounded = tensor.detach().to("cpu", dtype).contiguous().view(torch.int16)
            digest.update(name.encode() + rounded.numpy().tobytes())
    return digest.hexdigest()


def _grown(folder: Path, spec: SetSpec, count: int) -> LatentSet:
    """The arrays of a set that is begun, made longer where `count` asks for more rows than any of them has."""
    old, names = open_set(folder, spec, count), ("latents", "image_tokens", "cover")
    if any(len(getattr(old, name)) < count for name in names):
        growing = folder / "growing"
        new = open_set(growing, spec, count, "w+")
        for name in names:
            rows = getattr(old, name)
            getattr(new, name)[: len(rows)] = rows
        # Whole copies first: interrupted between two of these, the set has arrays of two lengths, and still all rows.
        for name in names:
            os.replace(growing / spec.folder / f"{name}.npy", folder / spec.folder / f"{name}.npy")
        shutil.rmtree(growing)
    return open_set(folder, spec, count, "r+")
