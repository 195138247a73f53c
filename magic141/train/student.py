"""Trained transformers as pipeline folders: written while they learn, and packed to ship."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPModel

from magic141 import adapter, arguments, weights
from magic141.errors import InputError
from magic141.pipeline import SHAREABLE, Magic141Pipeline
from magic141.presets import LAB
from magic141.scheduler import FlowMatchScheduler
from magic141.train.card import write_student_card
from magic141.train.folders import check_target
from magic141.transformer import Magic141Transformer3DModel

STUDENT = "student.json"
"""In such a folder: how its transformer was made, and what that has seen."""


def named(folder: Path) -> str:
    """What a record calls a pipeline: its folder's name, after that of its run where all runs call theirs alike."""
    parts = 2 if folder.name == "student" else 3 if folder.parent.name == "snapshots" else 1
    return "/".join(folder.parts[-parts:])


def as_shipped(text_encoder: CLIPModel) -> CLIPModel:
    """A copy on the CPU in bfloat16, whose configuration says so wherever it was loaded in another type."""
    model: CLIPModel = copy.deepcopy(text_encoder).cpu().bfloat16()
    # transformers brings the whole's up to date when it saves, and leaves those of the two towers.
    for config in (model.config.text_config, model.config.vision_config):
        config.dtype = model.dtype
    return model


def store(
    pipe: Magic141Pipeline,
    transformer: Magic141Transformer3DModel,
    scheduler: FlowMatchScheduler,
    facts: dict[str, Any],
    folder: Path,
) -> None:
    """Write `transformer` as a pipeline folder in half precision, with the other parts of `pipe`, sealed."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    whole = Magic141Pipeline(
        transformer=copy.deepcopy(transformer).cpu().half(),
        vae=copy.deepcopy(pipe.vae).cpu().half(),
        text_encoder=as_shipped(pipe.text_encoder),
        tokenizer=pipe.tokenizer,
        scheduler=scheduler,
    )
    whole.save_pretrained(partial)
    (partial / STUDENT).write_text(json.dumps(facts, indent=1) + "\n", "utf-8", newline="\n")
    weights.seal(partial)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def pack(
    student: Path,
    target: Path,
    rank: int | None = None,
    strength: float = 1.0,
    shift: float | None = None,
) -> None:
    """Ship a student: `target` becomes that pipeline folder, with card and checksums, without what its teacher ships.

    rank: ship its transformer as what it changes of the teacher's, in matrices of that rank (`magic141.adapter`).

    strength: times what it changes of the teacher's: 1 is the student as it was trained, and more goes on where
        training went, along a straight line (as task vectors, arXiv 2212.04089). `bench select` says what suits.

    shift: of the times at which it is used by default; unless given, it is used at those that it learned at.

    Raises InputError where `student` is none, with a `rank` and no teacher that ships, for a strength without rank, or
    one that is none or takes weights beyond half precision, for a shift that is none, or one of what `recover` left,
    which is used as the dense model is, and where `target` is no pipeline that could be replaced.
    """
    arguments.check_shift(shift)
    check_target(target)
    if not 0 <= strength < math.inf:  # also false for NaN
        raise InputError(f"strength={strength} must be a finite number from 0; 1 is what the student changes")
    if strength != 1 and rank is None:
        raise InputError(f"strength={strength:g} is of what a student changes of lab: give a rank as well")
    facts = _facts(student, shift)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        facts |= _fill(partial, student, rank, strength, shift)
        (partial / STUDENT).write_text(json.dumps(facts, indent=1) + "\n", "utf-8", newline="\n")
        if (target / "README.md").exists():
            shutil.copy(target / "README.md", partial / "README.md")
        weights.seal(partial)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    cards = [folder / "card.json" for folder in (student.parent, student.parent.parent)]
    trained = next((json.loads(card.read_text("utf-8")) for card in cards if card.exists()), None)
    write_student_card(facts, trained, target / "README.md")


def _facts(student: Path, shift: float | None) -> dict[str, Any]:
    """What `student` says of itself; raises InputError where it is none that ships, or none of a `shift`."""
    if not (student / STUDENT).is_file():
        raise InputError(
            f"{student} has no {STUDENT}: name a student or snapshot that `distill` or `recover` left"
        )
    facts = json.loads((student / STUDENT).read_text("utf-8"))
    if "method" not in facts:
        raise InputError(f"{student} is a snapshot of `prior`: name what `distill` or `recover` left")
    if facts["method"] == "transplant":
        raise InputError(f"{student} is a start that `transplant` left: give it to `distill --initial` first")
    if facts["method"] == "recover" and shift is not None:
        raise InputError(
            f"shift={shift:g} is of a student: {student} is used at the times of its dense model"
        )
    return dict(facts)


def _fill(
    partial: Path, student: Path, rank: int | None, strength: float, shift: float | None
) -> dict[str, Any]:
    """Copy `student` to `partial`, changed as `pack` is asked; returns what its record says of that."""
    facts: dict[str, Any] = {}
    shutil.copytree(student, partial)
    if shift is not None:
        sampler = partial / "scheduler" / "scheduler_config.json"
        config = json.loads(sampler.read_text("utf-8")) | {"shift": shift}
        sampler.write_text(json.dumps(config, indent=2) + "\n", "utf-8", newline="\n")
        facts |= {"used_shift": shift}
    if rank is None:
        with contextlib.suppress(InputError):  # of a teacher that does not ship
            weights.share(partial, LAB.name, tuple(SHAREABLE))
    else:
        teacher, ours = (
            Magic141Transformer3DModel.from_pretrained(folder / "transformer", dtype=torch.float32)
            for folder in (weights.resolve(LAB.name), student)
        )
        _strengthen(ours, teacher, strength)
        adapter.save(adapter.factor(ours, teacher, rank), partial)
        facts |= {"strength": strength, "rank": rank, "left_out": adapter.left_out(ours, teacher, partial)}
        weights.share(partial, LAB.name, tuple(SHAREABLE), changed=["transformer"])
    return facts


def _strengthen(
    ours: Magic141Transformer3DModel, teacher: Magic141Transformer3DModel, strength: float
) -> None:
    """Multiply what `ours` changes of `teacher`, in place.

    Raises InputError where they differ in shape, or weights leave half precision.
    """
    shapes = [{name: value.shape for name, value in model.named_parameters()} for model in (ours, teacher)]
    if shapes[0] != shapes[1]:
        raise InputError("student and teacher differ in shape: a pruned student ships whole, without a rank")
    adapter.strengthen(ours, teacher, strength)
    check_half(ours, strength)


def check_half(model: Magic141Transformer3DModel, strength: float) -> None:
    """Raises InputError where `strength` has taken weights of `model` beyond half precision, as they are stored."""
    if not all(parameter.half().isfinite().all() for parameter in model.parameters()):
        raise InputError(
            f"strength={strength:g} takes weights beyond half precision ({torch.finfo(torch.half).max:g}): use less"
        )
