"""A sparsified pipeline as a folder of weights, usable by name: its card says what was done to which weights."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from magic141 import weights
from magic141.errors import InputError
from magic141.sparsify import PRUNED, Calibration, Sparsity, apply, need_calibration
from magic141.sparsify.memory import parameter_bytes

if TYPE_CHECKING:
    from magic141.pipeline import Magic141Pipeline

CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-video
---

# magic141 {name}

The weights `{model}` after `python -m magic141 sparsify --model {model} --sparsity {sparsity}{option}`.

| | |
|---|---|
| made from | `{model}`, sha256 {source} |
| sparsity | {sparsity}{criterion}, without recovery |
| parameters of the transformer | {after:,} bytes, {share:.2f} of the {before:,} before |
| transformer file | sha256 {transformer} |

Other parts are those of `{model}`; its card says how they were trained.
"""


def check_output(folder: Path) -> None:
    """Raises InputError where `folder` cannot be made: it is there already, or its parent is not."""
    if folder.exists():
        raise InputError(f"output folder {str(folder)!r} exists: remove it, or name another")
    if not folder.parent.is_dir():
        raise InputError(f"output folder {str(folder.parent)!r} does not exist: create it first")


def check_ways(text: str, ways: tuple[Sparsity, ...]) -> None:
    """Raises InputError for a `text` that names no ways, or one that no file can hold."""
    if not ways:
        raise InputError(f"sparsity {text!r} changes nothing: name a way, such as 'structured-0.5'")
    if any(way.kind == "2:4" for way in ways):
        raise InputError(
            f"sparsity {text!r} cannot be saved: 2:4 is a packing for a GPU; save 'n:m-0.5', the same zeros"
        )


def write(
    model: str,
    text: str,
    ways: tuple[Sparsity, ...],
    folder: Path,
    calibrate: Callable[[Magic141Pipeline], Calibration] | None = None,
    precision: str = "float32",
) -> dict[str, int]:
    """Sparsify `model` in the `ways` that `text` names, and seal it in `folder`, whole or not at all.

    `calibrate` makes what criteria other than magnitude must know of data (`magic141.train.calibrate.losses`).
    `precision` is the transformer's, a floating dtype of torch: what is quantised computes in it alone.
    Returns the bytes of the transformer's parameters, "before" and "after".

    Raises:
        InputError: as `check_output`, `check_ways` and `magic141.sparsify.apply`: pruned or quantised twice.
        UnsupportedError: this machine lacks what the ways need.
    """
    import torch

    from magic141.pipeline import Magic141Pipeline

    check_output(folder)
    check_ways(text, ways)
    source = weights.resolve(model)
    dtype = {"transformer": getattr(torch, precision), "default": torch.float32}
    pipe = Magic141Pipeline.from_pretrained(source, dtype=dtype)
    before = parameter_bytes(pipe.transformer)
    known = calibrate(pipe) if calibrate is not None and need_calibration(ways) else ()
    apply(pipe, *ways, calibration=known)
    after = parameter_bytes(pipe.transformer)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        pipe.save_pretrained(partial)
        sums = weights.seal(partial)
        card = CARD.format(
            name=folder.name,
            model=model,
            sparsity=text,
            criterion="".join({f", by {way.criterion}" for way in ways if way.kind in PRUNED})
            + ", refitted" * any(way.refit for way in ways),
            option="".join({f" --criterion {way.criterion}" for way in ways if way.kind in PRUNED})
            + " --refit" * any(way.refit for way in ways)
            + f" --precision {precision}" * (precision != "float32"),
            source=weights.fingerprint(source),
            after=after,
            before=before,
            share=after / before,
            transformer=next(
                digest
                for name, digest in sums.items()
                if name.startswith("transformer/") and name.endswith(".safetensors")
            ),
        )
        (partial / "README.md").write_text(card, "utf-8", newline="\n")
        partial.chmod(0o755)  # what mkdtemp makes is for its owner alone
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {"before": before, "after": after}
