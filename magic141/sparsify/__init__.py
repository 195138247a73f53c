"""Parameter sparsification: fewer weights, or weights of fewer bits (Magic 1-For-1, arXiv 2502.07701).

    from magic141.sparsify import Sparsity, apply
    apply(pipe, Sparsity(kind="structured", ratio=0.5), Sparsity(kind="int8"))

`structured` and `blocks` make smaller layers, faster and smaller on any device. `unstructured` and `n:m` only set
weights to zero: dense layers, as large and as slow as before, for quality curves. `2:4` is `n:m` at one half, packed
for a GPU that has kernels for it. The others store weights in fewer bits. Importing this package is light.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from magic141.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from magic141.pipeline import Magic141Pipeline
    from magic141.transformer import Magic141Transformer3DModel

PRUNED = ("structured", "blocks")
MASKED = ("unstructured", "n:m", "2:4")
QUANTISED = ("int8", "int8-dynamic", "int4", "fp8")
KINDS = (*PRUNED, *MASKED, *QUANTISED)
CRITERIA = ("magnitude", "activation", "taylor")

Calibration = Iterable[Callable[["Magic141Transformer3DModel"], "Tensor"]]
"""Each runs the model on a batch of its own and returns a loss (a scalar): all that importance must know of data."""


@dataclass(frozen=True, kw_only=True)
class Sparsity:
    """One way to sparsify.

    kind: one of `KINDS`.
    ratio: in [0, 1), the share of what is removed: heads and hidden units, blocks, or weights. "n:m" takes quarters,
        "2:4" one half; quantisation takes none.
    mlp_ratio: for "structured", that of hidden units, where it is another than that of heads and conditioning: a head
        less costs more quality than as much time of hidden units.
    criterion: what makes a part important, for "structured" and "blocks" (see `magic141.sparsify.importance`).
    refit: solve what is left anew, for "structured" (see `magic141.sparsify.refit`).

    Raises:
        InputError: a field is unknown, out of range, or means nothing for this kind.
    """

    kind: str
    ratio: float = 0.0
    mlp_ratio: float | None = None
    criterion: str = "magnitude"
    refit: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (("kind", self.kind, KINDS), ("criterion", self.criterion, CRITERIA)):
            if value not in known:
                raise InputError(f"{name}={value!r} is unknown; use one of {', '.join(known)}")
        if not 0 <= self.ratio < 1:
            raise InputError(f"ratio={self.ratio} must lie in [0, 1): it is the share that is removed")
        if self.mlp_ratio is not None and self.kind != "structured":
            raise InputError(f"mlp_ratio={self.mlp_ratio} means nothing for kind {self.kind!r}: leave it out")
        if self.mlp_ratio is not None and not 0 <= self.mlp_ratio < 1:
            raise InputError(
                f"mlp_ratio={self.mlp_ratio} must lie in [0, 1): it is the share that is removed"
            )
        if self.kind in QUANTISED and self.ratio:
            raise InputError(f"ratio={self.ratio} means nothing for kind {self.kind!r}: leave it out")
        if self.kind == "2:4" and self.ratio != 0.5:
            raise InputError(f"ratio={self.ratio} must be 0.5 for kind '2:4'; 'n:m' takes other quarters")
        if self.kind == "n:m" and self.ratio * 4 % 1:
            raise InputError(f"ratio={self.ratio} must be a quarter for kind 'n:m': 0, 0.25, 0.5 or 0.75")
        if self.refit and self.kind != "structured":
            raise InputError(f"refit=True means nothing for kind {self.kind!r}: leave it out")


def parse(text: str, criterion: str = "magnitude", refit: bool = False) -> tuple[Sparsity, ...]:
    """The ways that a knob such as "structured-0.5+int8" names, in order; "none" names none.

    Each is a kind, then, where it takes one, a hyphen and the ratio: "unstructured-0.75", "n:m-0.75", "2:4", "int8";
    "structured-0.25-0.75" takes a quarter of the heads, and three of the hidden units.
    `criterion` is that of what is pruned, `refit` that of what is "structured".

    Raises InputError: a kind is unknown, a ratio is missing, no number, or out of range, or "none" is not alone.
    """
    ways = () if text == "none" else tuple(_way(part, criterion) for part in text.split("+"))
    return tuple(replace(way, refit=refit and way.kind == "structured") for way in ways)


def _way(text: str, criterion: str) -> Sparsity:
    if text in (*QUANTISED, "2:4"):
        return Sparsity(kind=text, ratio=0.5 if text == "2:4" else 0.0, criterion=criterion)
    kind, *numbers = text.split("-")
    try:
        ratios = [float(number) for number in numbers]
    except ValueError:
        ratios = []
    if not 1 <= len(ratios) <= 1 + (kind == "structured") or kind not in KINDS:
        raise InputError(
            f"sparsity {text!r} is unknown: use 'none', a kind with a ratio such as 'structured-0.5' "
            f"({', '.join(kind for kind in KINDS if kind not in (*QUANTISED, '2:4'))}), one of "
            f"{', '.join(('2:4', *QUANTISED))}, or several joined by '+'"
        )
    return Sparsity(kind=kind, ratio=ratios[0], mlp_ratio=(*ratios, None)[1], criterion=criterion)


def need_calibration(ways: Iterable[Sparsity]) -> bool:
    """Whether `apply` needs to know of data."""
    return any(way.refit or (way.kind in PRUNED and way.criterion != "magnitude") for way in ways)


def check_order(ways: Sequence[Sparsity]) -> None:
    """Raises InputError where one of `ways` cannot follow another: nothing has been changed then."""
    for before, after in itertools.pairwise(ways):
        if before.kind in QUANTISED:
            raise InputError(f"{after.kind!r} cannot follow {before.kind!r}: quantise once, and last")
    if len(twice := [way.kind for way in ways if way.kind in PRUNED]) > 1:
        raise InputError(
            f"{' and '.join(map(repr, twice))} both prune: a model is pruned once, when it is dense"
        )


def apply(
    target: Magic141Pipeline | Magic141Transformer3DModel, *ways: Sparsity, calibration: Calibration = ()
) -> Any:
    """Sparsify a transformer, or that of a pipeline, in the order of `ways`; returns what replaces `target`.

    A pipeline gets the new transformer and is returned itself. Of a transformer, pruning makes a new one; masks and
    quantisation change the one that they are given. `calibration` is for pruning whose criterion needs it, and for
    refitting.

    Raises:
        InputError: pruning twice, quantising twice, pruning what is quantised, or a criterion or refitting without
            calibration.
        UnsupportedError: this machine lacks the kernels, or the package that quantises.
    """
    from magic141.pipeline import Magic141Pipeline
    from magic141.sparsify import masks
    from magic141.sparsify.importance import measure
    from magic141.sparsify.quantise import check_kernels, quantise
    from magic141.sparsify.refit import refit
    from magic141.sparsify.structured import prune_blocks, prune_layers, what_stays

    check_order(ways)
    calibration = list(calibration)
    model = target.transformer if isinstance(target, Magic141Pipeline) else target
    for way in ways:  # before the first changes anything
        if way.kind in QUANTISED:
            check_kernels(way.kind, model.device)
        elif way.kind == "2:4":
            masks.check_kernels(model)
    for way in ways:
        if way.kind in PRUNED:
            dense, importance = model, measure(model, way.criterion, calibration)
            if way.kind == "blocks":
                model = prune_blocks(dense, way.ratio, importance)
                continue
            model = prune_layers(dense, way.ratio, importance, way.mlp_ratio)
            if way.refit:
                refit(model, dense, what_stays(dense, way.ratio, importance, way.mlp_ratio), calibration)
        elif way.kind == "unstructured":
            masks.mask_unstructured(model, way.ratio)
        elif way.kind == "n:m":
            masks.mask_n_of_four(model, way.ratio)
        elif way.kind == "2:4":
            masks.pack_semi_structured(model)
        else:
            quantise(model, way.kind)
    if not isinstance(target, Magic141Pipeline):
        return model
    target.register_modules(transformer=model)
    return target
