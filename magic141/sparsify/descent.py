"""Which groups of a dense transformer a pruned one has kept, read off the weights of both.

Pruning keeps groups in their order, and training afterwards turns their weights, but not so far that they are like any
other's. So what was kept is the increasing assignment of the pruned groups to dense ones in which weights are most
alike: sequence alignment without gaps on one side (Needleman and Wunsch 1970), with the sum of cosine similarities as
its score.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from magic141.errors import InputError
from magic141.sparsify.groups import Site, check_dense, sites
from magic141.sparsify.structured import Stays, all_but
from magic141.transformer import Magic141Transformer3DModel

ALIKE = 0.25
"""Least mean similarity of a site's groups to what they are taken for. That of unrelated weights is below 0.1."""
RECOGNISED = 0.5
"""Least share of a site's groups that nothing is more like than what they are taken for. Similarity falls for as long
as recovery goes on, and this hardly: but for `EMBEDDERS`, 304,000 samples left `lab` at 0.48 and 0.95, or more."""
EMBEDDERS = "time_text_embed"
"""Hidden units of those in it read a number or a caption's mean, and are many more than that takes: recovery
turns them beyond recognition (those of `lab` that read time: 0.43 were recognised after 181,000 samples, and of those
that read captions 0.47 after 490,000)."""


def kept_of(dense: Magic141Transformer3DModel, pruned: Magic141Transformer3DModel) -> Stays:
    """What `pruned` has of `dense`, as `magic141.sparsify.structured.what_stays` would tell it; nothing of the hidden
    units of embedders, where they are not recognised.

    Raises InputError: `pruned` was not made of `dense` by "structured", or is quantised.
    """
    _check_shapes(dense, pruned)
    found: dict[str, Tensor] = {}
    ours = {site.name: site for site in sites(pruned)}
    # The conditioning vectors first: embedders write only those of their units that were kept.
    for site in sorted(sites(dense), key=lambda site: not site.name.endswith(EMBEDDERS)):
        if ours[site.name].count > site.count:
            raise InputError(f"the pruned model was not made of this dense one: {site.name} is no part of it")
        alike = similarity(site, ours[site.name], found.get(site.name.rpartition(".")[0]))
        kept = alignment(alike.numpy())
        own = alike[torch.arange(len(kept)), kept]
        mean, recognised = own.mean().item(), (own >= alike.amax(1)).float().mean().item()
        if mean >= ALIKE and recognised >= RECOGNISED:
            found[site.name] = kept
        elif not site.name.rpartition(".")[0].endswith(EMBEDDERS):
            raise InputError(
                f"the pruned model was not made of this dense one: weights of {site.name} are alike by {mean:.2f} "
                f"(at least {ALIKE:g}), and {recognised:.0%} of its groups are recognised (at least {RECOGNISED:.0%})"
            )
    lost = {}
    for site in sites(dense):
        if site.name in found:
            gone = torch.ones(site.count, dtype=torch.bool)
            gone[found[site.name]] = False
            lost[site.name] = gone.nonzero().flatten()
    return all_but(dense, lost)


def _check_shapes(dense: Magic141Transformer3DModel, pruned: Magic141Transformer3DModel) -> None:
    """Raises InputError where more than pruning tells the two apart, or weights are no numbers."""
    for model in (dense, pruned):
        check_dense(model, "look for what was kept")
    for name, theirs in dense.config.items():
        if (
            name not in ("pruned_ratio", "pruned_mlp_ratio")
            and not name.startswith("_")
            and (ours := pruned.config[name]) != theirs
        ):
            raise InputError(
                f"the pruned model was not made of this dense one: {name} is {ours!r}, and {theirs!r} there"
            )
    for name, parameter in pruned.named_parameters():
        if not parameter.isfinite().all():
            raise InputError(
                f"{name} of the pruned model has weights that are not finite: its training diverged"
            )


def similarity(dense: Site, pruned: Site, written: Tensor | None) -> Tensor:
    """Cosine similarities (pruned groups, dense groups), a mean over the layers that both sites have in full.

    written: the units of a conditioning vector that stay, where readers write one.
    """
    pairs = []
    for whole, part in zip(dense.writers, pruned.writers, strict=True):
        if isinstance(whole.layer, nn.Linear) and whole.layer.in_features == part.layer.weight.shape[1]:
            pairs.append((_rows(whole.layer, whole.outputs()), _rows(part.layer, part.outputs())))
    for reader, smaller in zip(dense.readers, pruned.readers, strict=True):
        weight = reader.layer.weight.detach().float()
        if len(weight) != smaller.layer.out_features and written is not None:
            weight = weight[written]
        pairs.append((_columns(weight, reader.inputs()), _columns(smaller.layer.weight, smaller.inputs())))
    found = [F.normalize(ours, dim=1) @ F.normalize(theirs, dim=1).T for theirs, ours in pairs]
    return torch.stack(found).mean(0)


def alignment(alike: NDArray[np.float32]) -> Tensor:
    """Increasing columns (n,), one for each row of `alike` (n, m), whose entries have the greatest sum."""
    rows, columns = alike.shape
    best = np.full((rows + 1, columns + 1), -np.inf)
    best[0] = 0
    for row in range(rows):
        # Entry [row + 1, j]: the first row + 1 rows, to some of the first j columns.
        best[row + 1, 1:] = np.maximum.accumulate(best[row, :-1] + alike[row])
    kept, row, column = [], rows, columns
    while row:
        column -= 1
        if best[row, column] < best[row, column + 1]:
            kept.append(column)
            row -= 1
    return torch.tensor(kept[::-1])


def _rows(layer: nn.Linear | nn.Embedding, outputs: Tensor) -> Tensor:
    return layer.weight.detach().float().cpu()[outputs].flatten(1)


def _columns(weight: Tensor, inputs: Tensor) -> Tensor:
    return weight.detach().float().cpu().T[inputs].flatten(1)
