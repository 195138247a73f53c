"""Whether a folder's config and weights belong together: diffusers fills what is missing with random numbers."""

import os
from pathlib import Path
from typing import Any

import torch.nn as nn

from magic141.errors import WeightsCorrupt, WeightsMissing

CONFIG = "config.json"


def check_config(folder: Path) -> None:
    """Raises WeightsMissing where `folder` exists and has no config."""
    if folder.is_dir() and not (folder / CONFIG).is_file():
        raise WeightsMissing(
            f"{folder} has no {CONFIG}: weights alone do not say what was pruned; copy it from where they come"
        )


def check_loaded(model: nn.Module, info: dict[str, Any], source: str | os.PathLike[str]) -> None:
    """Raises WeightsCorrupt unless every weight of `model` was found in `source`, with its shape, and no other.

    info: what diffusers says with `output_loading_info`.
    """
    wrong = {
        "missing": list(info["missing_keys"]),
        "unexpected": list(info["unexpected_keys"]),
        "of another shape": [key for key, *_ in info["mismatched_keys"]] + misshapen(model),
    }
    if found := {what: keys for what, keys in wrong.items() if keys}:
        listed = "; ".join(f"{len(keys)} {what}, such as {keys[0]}" for what, keys in found.items())
        raise WeightsCorrupt(
            f"the weights in {os.fspath(source)} are not those of the model in its {CONFIG} ({listed}): "
            f"a pruned checkpoint needs the {CONFIG} that was saved with it"
        )


def misshapen(model: nn.Module) -> list[str]:
    """Weights of linear layers that contradict their layer; diffusers does not compare those of quantised ones."""
    return [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.shape != (module.out_features, module.in_features)
    ]
