"""The networks that VBench's scores rest on, each behind one function that finds its weights or says what to fetch.

A weights file is `path`, or is looked for by its published name in the directory that `MAGIC141_WEIGHTS` names and in
torch hub's folder of checkpoints. Only CLIP is fetched, by open_clip: the other files lie on four hosts, and the
message of `WeightsMissing` says where. Libraries that the harness does not need elsewhere are imported where they are
used. No network is ever run with random weights: all of a network's weights come from the file, or it is refused.
"""

from __future__ import annotations

import importlib
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evals.clip_scores import ClipJudge
from evals.i3d import DIRECTORY_VARIABLE, weights_directory
from evals.protocol import sha256_of
from magic141.errors import InputError, WeightsCorrupt, WeightsMissing

RAFT_UPDATES = 20
RAFT_SMALLEST = 128
"""Shortest side in pixels that RAFT's pyramid of correlations, 1/8 of it and halved three times, can do with."""
_CLIP_FILE = "open_clip_model.safetensors of timm/vit_large_patch14_clip_224.openai"
_DIGITS = 16


@dataclass(frozen=True)
class Network:
    """What a score needs of a network.

    Attributes:
        name: what protocol strings call it.
        run: float tensors in, one float tensor out, on whatever device; the scores of `evals.vbench` say the shapes.
        identity: the first 16 hex digits of the sha256 of its weights.
    """

    name: str
    run: Callable[..., Tensor]
    identity: str


@dataclass(frozen=True)
class WeightsFile:
    """A published file: its name, where it lies, and the first hex digits of its sha256 where they are known."""

    name: str
    url: str
    sha256: str = ""


DINO = WeightsFile(
    "dino_vitbase16_pretrain.pth",
    "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
)
AESTHETIC = WeightsFile(
    "sa_0_4_vit_l_14_linear.pth",
    "https://raw.githubusercontent.com/LAION-AI/aesthetic-predictor/main/sa_0_4_vit_l_14_linear.pth",
)
MUSIQ = WeightsFile(
    "musiq_spaq_ckpt-358bb6af.pth",
    "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/musiq_spaq_ckpt-358bb6af.pth",
)
AMT = WeightsFile("amt-s.pth", "https://huggingface.co/lalala125/AMT/resolve/main/amt-s.pth")
RAFT = WeightsFile(
    "raft_large_C_T_V1-22a6c225.pth",
    "https://download.pytorch.org/models/raft_large_C_T_V1-22a6c225.pth",
    "22a6c225",
)


def find(wanted: WeightsFile, path: Path | None = None) -> Path:
    """Where a file is: `path`, the directory that `MAGIC141_WEIGHTS` names, or torch hub's folder of checkpoints.

    Raises:
        InputError: `MAGIC141_WEIGHTS` names no directory.
        WeightsMissing: it is in none of them.
        WeightsCorrupt: a file of that name has another sha256. A `path` is taken as it is.
    """
    if path is not None:
        if not path.is_file():
            raise WeightsMissing(f"no weights at {path}: fetch {wanted.name} from {wanted.url}")
        return path
    places = [Path(torch.hub.get_dir()) / "checkpoints" / wanted.name]
    if directory := weights_directory():
        places.insert(0, directory / wanted.name)
    for place in places:
        if place.is_file():
            if not (found := sha256_of(place)).startswith(wanted.sha256):
                raise WeightsCorrupt(
                    f"{place} has sha256 {found[:_DIGITS]}…, not {wanted.sha256}…; fetch it again from {wanted.url}"
                )
            return place
    raise WeightsMissing(
        f"no {wanted.name} in {', '.join(map(str, places))}. Fetch it from {wanted.url} and put it into the "
        f"directory that {DIRECTORY_VARIABLE} names, or give its path"
    )


def load_dino(path: Path | None = None, device: torch.device | str = "cpu") -> Network:
    """DINO's ViT-B/16 (Caron et al. 2021): `run` takes normalised pixels (N, 3, h, w) to vectors (N, 768).

    Raises:
        WeightsMissing, WeightsCorrupt: see `find`; also where timm is missing.
        InputError: the file is no state dict of this network.
    """
    timm = _library("timm", "timm", DINO)
    file = find(DINO, path)
    vit = _filled(timm.create_model("vit_base_patch16_224", num_classes=0), file, device)
    return Network("dino-vitb16", partial(dino_features, vit), sha256_of(file)[:_DIGITS])


def dino_features(vit: Any, pixels: Tensor) -> Tensor:
    """Class tokens (N, width) of a timm vision transformer, as DINO's own code computes them at any size.

    timm resamples the table of positions otherwise, and refuses sides that are no multiple of the patch.

    Args:
        vit: a transformer with a class token and learnt positions on a square grid.
        pixels: float (N, 3, h, w), normalised; what is left of a last row or column of patches is cut off.
    """
    patches = vit.patch_embed.proj(pixels.to(vit.pos_embed.device))
    rows, columns = patches.shape[-2:]
    grid = math.isqrt(vit.pos_embed.shape[1] - 1)
    places = vit.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (grid, grid))
    if rows * columns != grid * grid or pixels.shape[-2] != pixels.shape[-1]:
        # The tenth of a patch guards DINO against rounding down, and shifts the positions a little.
        scale = ((rows + 0.1) / grid, (columns + 0.1) / grid)
        places = F.interpolate(places, scale_factor=scale, mode="bicubic")
    tokens = (patches + places).flatten(2).transpose(1, 2)
    first = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(tokens), -1, -1)
    features: Tensor = vit.norm(vit.blocks(torch.cat([first, tokens], dim=1)))[:, 0]
    return features


def load_aesthetic(
    path: Path | None = None, clip: str = "openai", device: torch.device | str = "cpu"
) -> Network:
    """LAION's linear head on OpenAI's CLIP ViT-L/14: `run` takes (N, 3, 224, 224) to ratings (N,), about 1 to 10.

    Args:
        path: the file of the head.
        clip: open_clip's tag, or a checkpoint file in open_clip's layout.

    Raises:
        WeightsMissing, WeightsCorrupt: see `find`; also where CLIP is not here and cannot be fetched.
        InputError: the file of the head is no state dict of nn.Linear(768, 1).
    """
    file = find(AESTHETIC, path)
    head = _filled(nn.Linear(768, 1), file, device)
    try:
        judge = ClipJudge.load("ViT-L-14-quickgelu", clip, device)
    except WeightsMissing as error:
        raise WeightsMissing(f"{error}. For {clip!r} that is {_CLIP_FILE}, from huggingface.co") from error

    def run(pixels: Tensor) -> Tensor:
        vectors = judge.model.encode_image(pixels.to(judge.device)).float()
        ratings: Tensor = head(F.normalize(vectors, dim=-1)).squeeze(-1)
        return ratings

    return Network("laion-sa-0-4-vit-l-14", run, f"{sha256_of(file)[:_DIGITS]}+{judge.identity}")


def load_musiq(path: Path | None = None, device: torch.device | str = "cpu") -> Network:
    """MUSIQ trained on SPAQ (Ke et al. 2021), of pyiqa: `run` takes (1, 3, h, w) in [0, 1] to a rating of 0 to 100.

    Raises:
        WeightsMissing, WeightsCorrupt: see `find`; also where pyiqa is missing.
        InputError: the file is no checkpoint of this network.
    """
    library = _library("pyiqa.archs.musiq_arch", "pyiqa", MUSIQ)
    file = find(MUSIQ, path)
    try:
        model = library.MUSIQ(pretrained_model_path=str(file))
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise InputError(
            f"{file} is no checkpoint of MUSIQ ({_first_line(error)}); use {MUSIQ.url}"
        ) from error
    model.eval().requires_grad_(False).to(device)
    return Network("musiq-spaq", lambda pixels: model(pixels.to(device)), sha256_of(file)[:_DIGITS])


def load_amt(path: Path | None = None, device: torch.device | str = "cpu") -> Network:
    """AMT-S (Li et al. 2023) from the package of VBench: `run` takes two frames to the one half-way between them.

    Frames are (1, 3, h, w) in [0, 1], with sides that are multiples of 16. They are never scaled down: VBench does
    so on a GPU only, and for frames that its memory is too small for.

    Raises:
        WeightsMissing, WeightsCorrupt: see `find`; also where vbench is missing.
        InputError: the file is no state dict of this network.
    """
    # vbench pins numpy < 2 and an old transformers, of which AMT needs nothing; decord is imported on the way.
    library = _library("vbench.third_party.amt.networks.AMT-S", "--no-deps vbench decord", AMT)
    file = find(AMT, path)
    model = _filled(library.Model(corr_radius=3, corr_lvls=4, num_flows=3), file, device)
    half = torch.full((1, 1, 1, 1), 0.5, device=device)

    def run(before: Tensor, after: Tensor) -> Tensor:
        middle: Tensor = model(before.to(device), after.to(device), half, scale_factor=1.0, eval=True)[
            "imgt_pred"
        ]
        return middle

    return Network("amt-s", run, sha256_of(file)[:_DIGITS])


def load_raft(path: Path | None = None, device: torch.device | str = "cpu") -> Network:
    """RAFT (Teed and Deng 2020) of torchvision, 20 updates: `run` takes frames (1, 3, h, w) to flow (1, 2, h, w).

    Frames are in grey levels, 0 to 255, with sides that are multiples of 8; flow is x, y in px. The file is
    torchvision's port of the authors' weights for FlyingChairs and FlyingThings3D: of the raft-things that VBench
    uses, in other words. Any other weights of raft_large may be given by their path.

    Raises:
        WeightsMissing, WeightsCorrupt: see `find`; also where torchvision is missing.
        InputError: the file is no state dict of this network; `run` got frames with a side below `RAFT_SMALLEST`.
    """
    library = _library("torchvision.models.optical_flow", "torchvision", RAFT)
    file = find(RAFT, path)
    model = _filled(library.raft_large(weights=None, progress=False), file, device)

    def run(before: Tensor, after: Tensor) -> Tensor:
        if min(before.shape[-2:]) < RAFT_SMALLEST:
            raise InputError(
                f"RAFT needs sides of at least {RAFT_SMALLEST} px, got {before.shape[-1]}x{before.shape[-2]}; "
                "score larger frames"
            )
        pair = [2 * (frame.to(device) / 255) - 1 for frame in (before, after)]
        flow: Tensor = model(*pair, num_flow_updates=RAFT_UPDATES)[-1]
        return flow

    return Network("torchvision-raft-large", run, sha256_of(file)[:_DIGITS])


def _library(module: str, package: str, wanted: WeightsFile) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise WeightsMissing(
            f"{wanted.name} needs {module}, which cannot be imported ({error}): pip install {package}, and fetch "
            f"{wanted.name} from {wanted.url}"
        ) from error


def _filled(model: Any, file: Path, device: torch.device | str) -> Any:
    """The model, frozen, with all of its weights from a state dict, which may lie under the key state_dict."""
    try:
        raw = torch.load(file, map_location="cpu", weights_only=True)
        model.load_state_dict(raw.get("state_dict", raw))
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, TypeError) as error:
        raise InputError(
            f"{file} is no state dict of {type(model).__name__} ({_first_line(error)}); fetch it again, or save the "
            "state dict alone"
        ) from error
    return model.eval().requires_grad_(False).to(device)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
