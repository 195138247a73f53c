"""Stage `transplant`: what a student changes of its dense teacher, brought over to the teacher pruned.

`pruned + strength (student - dense)`, of what pruning kept: task vectors (Ilharco et al. 2022, arXiv 2212.04089) from
one model to another, which works as far as recovery has left the pruned teacher where the dense one was. No training:
seconds, for a start that `distill --initial` goes on from.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from magic141 import weights
from magic141.errors import InputError
from magic141.pipeline import Magic141Pipeline
from magic141.sparsify.descent import kept_of
from magic141.sparsify.groups import check_dense
from magic141.sparsify.structured import check_whole, cut
from magic141.train.folders import PLAN, same_plan
from magic141.train.student import check_half, named, store
from magic141.transformer import Magic141Transformer3DModel


def run(student: Path, dense: Path, pruned: Path, strength: float, out: Path) -> list[str]:
    """Write the pruned student to `out / "student"`; returns the names of the parameters that it has of `pruned` alone.

    Raises InputError: strength is no number above 0, or takes weights beyond half precision, a model is quantised,
    `student` differs from `dense` in shape, `pruned` was not made of `dense`, or `out` holds something else.
    """
    if not (math.isfinite(strength) and strength > 0):
        raise InputError(
            f"strength={strength} must be a finite number above 0; 1 is what the student changes"
        )
    sources = (student, dense, pruned)
    asked = {"strength": strength, "fingerprints": [weights.fingerprint(folder) for folder in sources]}
    if (out / "student").exists() and not (out / PLAN).exists():
        raise InputError(f"{out / 'student'} would be replaced, and no run made it: give another --name")
    plan = {"method": "transplant", **asked}
    if (out / PLAN).exists():
        same_plan(out, plan)
    pipes = [Magic141Pipeline.from_pretrained(folder) for folder in sources]
    for pipe in pipes:
        check_dense(pipe.transformer, "transplant")
    theirs, teacher, ours = (pipe.transformer.float() for pipe in pipes)
    left = transplant(theirs, teacher, ours, strength)
    check_half(ours, strength)
    facts = {
        "method": "transplant",
        **asked,
        **{name: named(folder) for name, folder in zip(("of", "dense", "pruned"), sources, strict=True)},
        "left": left,
    }
    same_plan(out, plan)
    store(pipes[0], ours, pipes[0].scheduler, facts, out / "student")
    return left


@torch.no_grad()
def transplant(
    student: Magic141Transformer3DModel,
    dense: Magic141Transformer3DModel,
    pruned: Magic141Transformer3DModel,
    strength: float,
) -> list[str]:
    """Add `strength` times what `student` changes of `dense` to `pruned`, in place, wherever it is known what was kept
    (`magic141.sparsify.descent`); returns the names of the other parameters.

    Raises InputError: `student` differs from `dense` in shape, or `pruned` was not made of `dense`.
    """
    for model in (student, dense):
        check_whole(model)
    theirs, teacher = student.state_dict(), dense.state_dict()
    shapes = [{name: value.shape for name, value in state.items()} for state in (theirs, teacher)]
    if shapes[0] != shapes[1]:
        raise InputError("the student differs from the dense model in shape: it is not a student of it")
    change = cut({name: theirs[name] - value for name, value in teacher.items()}, kept_of(dense, pruned))
    left = []
    for name, parameter in pruned.named_parameters():
        if change[name].shape == parameter.shape:
            parameter.add_(change[name], alpha=strength)
        else:
            left.append(name)
    return left
