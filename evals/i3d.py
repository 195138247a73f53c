"""The Inflated-3D Inception-v1 (I3D) of Carreira and Zisserman 2017 (arXiv 1705.07750), RGB stream, in plain PyTorch.

Its 400 Kinetics logits, averaged over time, are the features of the Fréchet video distance (Unterthiner et al. 2018,
arXiv 1812.01717). Only inference is meant: the dropout before the logits is left out, batch norm uses its running
statistics. `load_i3d` reads published state dicts, so that no TorchScript file has to be run.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magic141.errors import InputError, WeightsMissing

FILE = "i3d_torchscript.pt"
REPOSITORY = "flateon/FVD-I3D-torchscript"
DIRECTORY_VARIABLE = "MAGIC141_WEIGHTS"
CLASSES = 400
SIDE = 224
MIN_FRAMES = 10
"""Fewest frames of a clip. Nine would still leave two time steps for the last pooling; ten is the usual limit."""
_FEATURES = 1024
_SHOWN = 3

Triple = tuple[int, int, int]

# Channels of the parallel branches: 1x1x1; 1x1x1, 3x3x3; 1x1x1, 3x3x3; pool, 1x1x1 (Szegedy et al. 2015, table 1).
_MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
_POOL_BEFORE: dict[str, tuple[str, Triple, Triple]] = {
    "Mixed_3b": ("MaxPool3d_3a_3x3", (1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ("MaxPool3d_4a_3x3", (3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ("MaxPool3d_5a_2x2", (2, 2, 2), (2, 2, 2)),
}
# From the names of hassony2/kinetics_i3d_pytorch to those of piergiaj/pytorch-i3d, applied in this order.
_RENAMES = (
    ("conv3d_0c_1x1", "logits"),
    ("conv3d_", "Conv3d_"),
    ("mixed_", "Mixed_"),
    (".batch3d.", ".bn."),
    ("branch_0", "b0"),
    ("branch_1.0", "b1a"),
    ("branch_1.1", "b1b"),
    ("branch_2.0", "b2a"),
    ("branch_2.1", "b2b"),
    ("branch_3.1", "b3b"),
)


def _pad_same(x: Tensor, kernel: Triple, stride: Triple, value: float) -> Tensor:
    """x (B, C, T, H, W) padded as TensorFlow's "SAME": ceil(size / stride) outputs, the odd element at the end."""
    pads: list[int] = []
    for size, width, step in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max((-(-size // step) - 1) * step + width - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


class _Unit(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(_pad_same(x, self.kernel, self.stride, 0.0))))


class _Pool(nn.Module):
    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(_pad_same(x, self.kernel, self.stride, -torch.inf), self.kernel, self.stride)


class _Mixed(nn.Module):
    """Four branches side by side, joined in the channels."""

    def __init__(self, inputs: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        c0, c1a, c1b, c2a, c2b, c3 = channels
        self.b0 = _Unit(inputs, c0)
        self.b1a, self.b1b = _Unit(inputs, c1a), _Unit(c1a, c1b, 3)
        self.b2a, self.b2b = _Unit(inputs, c2a), _Unit(c2a, c2b, 3)
        self.b3a, self.b3b = _Pool((3, 3, 3), (1, 1, 1)), _Unit(inputs, c3)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))]
        return torch.cat(branches, dim=1)


class _Head(nn.Module):
    """1x1x1 convolution with bias; a module of its own only because the published files call it logits.conv3d."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(_FEATURES, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv3d(x))


def _trunk() -> Iterator[tuple[str, nn.Module]]:
    yield "Conv3d_1a_7x7", _Unit(3, 64, 7, 2)
    yield "MaxPool3d_2a_3x3", _Pool((1, 3, 3), (1, 2, 2))
    yield "Conv3d_2b_1x1", _Unit(64, 64)
    yield "Conv3d_2c_3x3", _Unit(64, 192, 3)
    width = 192
    for name, channels in _MIXED.items():
        if name in _POOL_BEFORE:
            pool, kernel, stride = _POOL_BEFORE[name]
            yield pool, _Pool(kernel, stride)
        yield name, _Mixed(width, channels)
        width = channels[0] + channels[2] + channels[4] + channels[5]


class I3D(nn.Module):
    """Inception-v1 inflated to 3-D. With 400 classes it has 12 697 264 parameters, 410 000 of them in the logits.

    Modules are named as in piergiaj/pytorch-i3d, whose state dicts fit as they are. It starts in evaluation mode.
    """

    def __init__(self, num_classes: int = CLASSES) -> None:
        super().__init__()
        self.trunk: list[str] = []
        for name, module in _trunk():
            self.add_module(name, module)
            self.trunk.append(name)
        self.logits = _Head(num_classes)
        self.eval()

    def stages(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Name and output of each stage before the head, for x (B, 3, T, H, W) of any size."""
        for name in self.trunk:
            x = self.get_submodule(name)(x)
            yield name, x

    def head(self, x: Tensor) -> Tensor:
        """(B, classes) from the last stage (B, 1024, T', 7, 7): mean over 2x7x7, logits, mean over time."""
        pooled = F.avg_pool3d(x, (2, 7, 7), stride=1)
        return cast(Tensor, self.logits(pooled)).mean(dim=(2, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes), averaged over time, of x (B, 3, T, 224, 224) in [-1, 1].

        Raises:
            InputError: x has another shape, or T < 10.
        """
        if x.ndim != 5 or x.shape[1] != 3 or tuple(x.shape[3:]) != (SIDE, SIDE):
            raise InputError(
                f"I3D needs (B, 3, T, {SIDE}, {SIDE}), got {tuple(x.shape)}; resize the frames first"
            )
        if x.shape[2] < MIN_FRAMES:
            raise InputError(f"I3D needs at least {MIN_FRAMES} frames, got {x.shape[2]}; score longer clips")
        for _, stage in self.stages(x):
            x = stage
        return self.head(x)


def load_i3d(path: Path) -> I3D:
    """An `I3D` in evaluation mode, frozen, with the weights of a state-dict file, whose layout its keys tell.

    Known layouts: piergiaj/pytorch-i3d (`rgb_imagenet.pt`, and VideoGPT's `i3d_pretrained_400.pt`) and
    hassony2/kinetics_i3d_pytorch (lower case, `branch_0`, `batch3d`). Counters `num_batches_tracked` may be there or
    not. The first two share names, not values: FVD was defined with the TF-Hub module that VideoGPT's file was
    converted from. The file is read with weights_only: nothing in it is run.

    Raises:
        InputError: the file is no state dict, or its keys or shapes are not those of a known layout.
    """
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is no PyTorch state dict ({reason}); fetch it again") from error
    if not isinstance(raw, dict) or not all(isinstance(value, Tensor) for value in raw.values()):
        raise InputError(
            f"{path} holds {type(raw).__name__}, not a plain state dict; save model.state_dict()"
        )
    state = {_canonical(key): value for key, value in raw.items() if not key.endswith("num_batches_tracked")}
    bias = state.get("logits.conv3d.bias")
    model = I3D(CLASSES if bias is None else bias.numel())
    expected = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    missing, unexpected = expected.keys() - state.keys(), state.keys() - expected.keys()
    if missing or unexpected:
        raise InputError(
            f"{path} has an unknown layout: missing {_some(missing)}, unexpected {_some(unexpected)}; "
            "known are those of pytorch-i3d and kinetics_i3d_pytorch, RGB stream"
        )
    wrong = {key for key, value in state.items() if value.shape != expected[key].shape}
    if wrong:
        raise InputError(
            f"{path} has other shapes than an RGB I3D in {_some(wrong)}; use the RGB stream's file"
        )
    # Not strict: the counters of training steps are the only keys left out.
    model.load_state_dict(state, strict=False)
    return model.requires_grad_(False)


def find_weights(path: Path | None = None) -> Path:
    """Where the file is: `path`, the directory that `MAGIC141_WEIGHTS` names, the Hugging Face cache, or the hub.

    Raises:
        InputError: `MAGIC141_WEIGHTS` names no directory.
        WeightsMissing: it is nowhere; the message says what to fetch and where to put it.
    """
    if path is not None:
        if not path.is_file():
            raise WeightsMissing(f"no weights at {path}: name {FILE} of {REPOSITORY}, or an I3D state dict")
        return path
    searched = []
    if directory := weights_directory():
        if (directory / FILE).is_file():
            return directory / FILE
        searched.append(str(directory / FILE))
    return _from_hub(searched)


def weights_directory() -> Path | None:
    """The directory that `MAGIC141_WEIGHTS` names, if it is set. Raises InputError where there is no such directory."""
    value = os.environ.get(DIRECTORY_VARIABLE)
    if not value:
        return None
    directory = Path(value).expanduser()
    if not directory.is_dir():
        raise InputError(f"{DIRECTORY_VARIABLE}={value!r} is no directory: create it or unset the variable")
    return directory


def is_torchscript(path: Path) -> bool:
    """A TorchScript archive carries its code; `torch.save` writes none."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _from_hub(searched: list[str]) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.hf_hub_download(REPOSITORY, FILE, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(huggingface_hub.hf_hub_download(REPOSITORY, FILE))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        places = ", ".join([*searched, "the Hugging Face cache", "the hub"])
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsMissing(
            f"no {FILE} in {places} ({reason}). Fetch it from {REPOSITORY} where there is a network, and put it "
            f"into the directory that {DIRECTORY_VARIABLE} names"
        ) from error


def _canonical(key: str) -> str:
    if key.startswith(("conv3d_", "mixed_")):
        for theirs, ours in _RENAMES:
            key = key.replace(theirs, ours)
    return key


def _some(keys: Iterable[str]) -> str:
    names = sorted(keys)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "nothing") + more
