"""Quantisation through torchao, the optional extra `quantise`: weights of 8 or 4 bits.

int8, int8-dynamic and fp8 are saved as they are, by diffusers, as one safetensors checkpoint. int4 is packed in an
order that depends on the machine, so that its file holds the quantised weights unpacked, as floats, and loading
quantises them again; they lie on the grid already, and with scales and zero points in a file beside them come out as
they were.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers import TorchAoConfig
from diffusers.quantizers.torchao.torchao_quantizer import TorchAoHfQuantizer
from safetensors.torch import load_file, save_file
from torch import Tensor

from magic141.errors import InputError, UnsupportedError
from magic141.sparsify import QUANTISED
from magic141.sparsify.memory import INT4_GROUP, SENSITIVE, quantisable

if TYPE_CHECKING:
    from magic141.transformer import Magic141Transformer3DModel

FP8_CAPABILITY = (8, 9)
INT4_CAPABILITY = (8, 0)
"""Of the first NVIDIA GPUs with such kernels: Ada, Ampere."""
SCALES = "int4_scales.safetensors"


def quantise(model: Magic141Transformer3DModel, kind: str) -> None:
    """Quantise linear layers in place (see `magic141.sparsify.memory.quantisable`); the model can only infer then.

    kind: "int8", weights only (the paper's), one scale a row; "int8-dynamic" and "fp8" (e4m3), activations too, a row
        at a time; "int4", weights only, a scale and a zero point for each `INT4_GROUP` weights of a row.

    Raises:
        InputError: the kind is unknown, or the model is quantised already.
        UnsupportedError: torchao is not installed, or this device has no kernels for it.
    """
    if getattr(model, "is_quantized", False):
        raise InputError("the model is quantised already: start from the one that it was made from")
    check_kernels(kind, model.device)
    from torchao import quantization as ao

    settings = {
        "int8": ao.Int8WeightOnlyConfig,
        "int8-dynamic": ao.Int8DynamicActivationInt8WeightConfig,
        "int4": lambda: ao.Int4WeightOnlyConfig(INT4_GROUP, int4_packing_format="tile_packed_to_4d"),
        "fp8": lambda: ao.Float8DynamicActivationFloat8WeightConfig(granularity=ao.PerRow()),
    }
    _quantise(model, kind, settings[kind]())


def restore(model: Magic141Transformer3DModel, folder: Path) -> None:
    """Quantise in place a model that was saved as int4 and has just been loaded of `folder`; leave others as they are.

    Raises UnsupportedError as `quantise` does.
    """
    setting = model.config.quantization_config.quant_type
    if type(setting).__name__ == "Int4WeightOnlyConfig" and not any(map(is_packed, model.parameters())):
        check_kernels("int4", model.device)
        _quantise(model, "int4", setting)
        if (path := folder / SCALES).is_file():
            _put_scales(model, load_file(path))


def save_scales(model: Magic141Transformer3DModel, folder: Path) -> None:
    """Beside the weights of an int4 model, the scales and zero points that they were rounded with."""
    packed = {name: value.scale_and_zero for name, value in model.named_parameters() if is_int4(value)}
    if packed:
        save_file({name: value.contiguous() for name, value in packed.items()}, folder / SCALES)


@torch.no_grad()
def _put_scales(model: Magic141Transformer3DModel, scales: dict[str, Tensor]) -> None:
    """Exactly as they were saved: those found anew in weights that bfloat16 has rounded differ in their last bits."""
    for name, value in model.named_parameters():
        if is_int4(value):
            value.scale_and_zero.copy_(scales[name])


def is_int4(tensor: Tensor) -> bool:
    return hasattr(tensor, "scale_and_zero")


def is_packed(tensor: Tensor) -> bool:
    """Whether a tensor is stored in another form than its shape and dtype say."""
    return hasattr(tensor, "__tensor_flatten__")


def unpacked(weight: Tensor) -> Tensor:
    """The numbers (out, in) that a quantised weight stands for."""
    eye = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    return F.linear(eye, weight).T.contiguous()


class Int4Quantizer(TorchAoHfQuantizer):
    """Tells diffusers what to write to files: it cannot write packed int4 weights."""

    def get_state_dict_and_metadata(
        self, state_dict: dict[str, Any], safe_serialization: bool = False
    ) -> tuple[dict[str, Any], dict[str, str]]:
        with torch.no_grad():
            return {
                key: unpacked(tensor) if is_packed(tensor) else tensor for key, tensor in state_dict.items()
            }, {}


def _quantise(model: Magic141Transformer3DModel, kind: str, setting: Any) -> None:
    from torchao.quantization import quantize_

    chosen = set(quantisable(model, kind))
    quantize_(model, _packing(kind, setting, model.device), filter_fn=lambda module, name: name in chosen)
    # What diffusers would have noted, had it quantised while loading: how to save, and that casting is an error.
    config = TorchAoConfig(setting, modules_to_not_convert=list(SENSITIVE) if kind == "int4" else None)
    quantizer = (Int4Quantizer if kind == "int4" else TorchAoHfQuantizer)(config, pre_quantized=True)
    quantizer.validate_environment()
    model.is_quantized, model.quantization_method = True, config.quant_method
    model.hf_quantizer = quantizer
    model.register_to_config(quantization_config=config)


def _packing(kind: str, setting: Any, device: torch.device) -> Any:
    """The setting itself, but for int4 on a CPU another order of weights, the one that its kernel reads."""
    if kind != "int4" or device.type != "cpu":
        return setting
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

    return PrototypeInt4WeightOnlyConfig(setting.group_size)


def check_kernels(kind: str, device: torch.device) -> None:
    """Raises InputError for an unknown kind, UnsupportedError where torchao is absent, or the device has no kernels."""
    if kind not in QUANTISED:
        raise InputError(f"{kind=} is unknown; use one of {', '.join(QUANTISED)}")
    if find_spec("torchao") is None:
        raise UnsupportedError("torchao is not installed: `pip install 'magic141[quantise]'`")
    if kind == "fp8" or (kind == "int4" and device.type != "cpu"):
        needed = FP8_CAPABILITY if kind == "fp8" else INT4_CAPABILITY
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < needed:
            raise UnsupportedError(
                f"{kind} needs an NVIDIA GPU of capability {needed[0]}.{needed[1]} or later, "
                f"and the model is on {device}"
            )
