"""A sparsified pipeline as a folder of weights, usable by name: its card says what was done to which weights."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from safetensors import SafetensorError

from magic141 import weights
from magic141.errors import InputError
from magic141.sparsify import PRUNED, Calibration, Sparsity, apply, need_calibration
from magic141.sparsify.memory import parameter_bytes

if TYPE_CHECKING:
    import torch

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
| parameters of the transformer | {after:,} bytes in {precision}, {share:.2f} of the {before:,} before |
| transformer on the disk | {file:,} bytes; its weights have sha256 {transformer} |

Other parts are those of `{model}`, copied; its card says how they were trained.
"""
COPIED = ("vae", "text_encoder", "tokenizer")


class Size(NamedTuple):
    """Bytes: of the transformer's parameters in memory before and after, and of its files."""

    before: int
    after: int
    file: int


def check_output(folder: Path) -> None:
    """Raises InputError where `folder` cannot be made: it is there already, or its parent is not."""
    if folder.exists():
        raise InputError(f"output folder {str(folder)!r} exists: remove it, or name another")
    if not folder.parent.is_dir():
        raise InputError(f"output folder {str(folder.parent)!r} does not exist: create it first")
    try:
        with tempfile.TemporaryFile(dir=folder.parent):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or error
    return InputError(
        f"output folder {str(folder)!r} cannot be written ({reason}): make room, or name another"
    )


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
) -> Size:
    """Sparsify `model` in the `ways` that `text` names, and seal it in `folder`, whole or not at all.

    `calibrate` makes what criteria other than magnitude must know of data (`magic141.train.calibrate.losses`).
    `precision` is the transformer's, a floating dtype of torch: what is quantised computes in it alone. The file of
    what is not quantised has that of the file that it was made from.

    Raises:
        InputError: as `check_output`, `check_ways` and `magic141.sparsify.apply`: pruned or quantised twice; or the
            folder could not be written.
        UnsupportedError: this machine lacks what the ways need.
    """
    import torch

    from magic141.pipeline import Magic141Pipeline

    check_output(folder)
    check_ways(text, ways)
    source = weights.resolve(model)
    lent = weights.shared(source)
    dtype = {"transformer": getattr(torch, precision), "default": torch.float32}
    pipe = Magic141Pipeline.from_pretrained(source, dtype=dtype)
    before = parameter_bytes(pipe.transformer)
    known = calibrate(pipe) if calibrate is not None and need_calibration(ways) else ()
    apply(pipe, *ways, calibration=known)
    after = parameter_bytes(pipe.transformer)
    if not getattr(pipe.transformer, "is_quantized", False):
        # torch's own `to`: that of diffusers warns of what it leaves in float32, which is nothing here.
        torch.nn.Module.to(pipe.transformer, _stored_dtype(lent.get("transformer", source / "transformer")))
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        pipe.save_pretrained(partial)
        for part in COPIED:  # as they are stored, not as they compute
            shutil.rmtree(partial / part)
            shutil.copytree(lent.get(part, source / part), partial / part)
        sums = weights.seal(partial)
        name = next(
            name for name in sums if name.startswith("transformer/") and name.endswith(".safetensors")
        )
        files = (partial / "transformer").glob("*.safetensors")
        size = Size(before, after, sum(path.stat().st_size for path in files))
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
            precision=precision,
            share=after / before,
            transformer=sums[name],
            **size._asdict(),
        )
        (partial / "README.md").write_text(card, "utf-8", newline="\n")
        partial.chmod(0o755)  # what mkdtemp makes is for its owner alone
        partial.replace(folder)
    except (OSError, SafetensorError) as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return size


def _stored_dtype(folder: Path) -> torch.dtype:
    """Of the weights in `folder`, which are not quantised: of the first of them."""
    import torch
    from safetensors import safe_open

    path = next(iter(sorted(folder.glob("*.safetensors"))), None)
    if path is None:
        return torch.float32
    with safe_open(path, "pt") as file:
        return next(file.get_tensor(key).dtype for key in file.keys())  # noqa: SIM118, it is no dict
