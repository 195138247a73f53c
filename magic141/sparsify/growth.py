"""Pruning taken back in part: hidden units that a pruned transformer lost, as its dense model has them.

What reads them has weights of zero, so that the larger transformer says what the smaller one said (as where a network
is widened in Net2Net, Chen et al. 2016, arXiv 1511.05641), and training goes on from there. Their incoming weights are
no zeros, so they learn at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from magic141.blocks import kept
from magic141.errors import InputError
from magic141.sparsify.descent import kept_of
from magic141.sparsify.groups import HIDDEN, sites
from magic141.sparsify.importance import Importance
from magic141.sparsify.structured import rebuilt
from magic141.transformer import Magic141Transformer3DModel


def give_back(
    dense: Magic141Transformer3DModel,
    pruned: Magic141Transformer3DModel,
    mlp_ratio: float,
    importance: Importance,
) -> Magic141Transformer3DModel:
    """A copy of `pruned`, which was made of `dense`, that lacks no more than the share `mlp_ratio` of hidden units.

    The most important of what it lacks comes back, by the scores of `dense`.

    Raises InputError: `pruned` was not made of `dense` by "structured" or lacks fewer hidden units than that, or the
        ratio is outside [0, 1).
    """
    stays = kept_of(dense, pruned)
    names = {layer: name for name, layer in dense.named_modules()}
    whole, state = dense.state_dict(), dict(pruned.state_dict())
    ours = {site.name: site for site in sites(pruned)}
    for site in sites(dense):
        if not site.name.endswith(HIDDEN):
            continue
        (writer,), (reader,) = site.writers, site.readers
        written, read = names[writer.layer], names[reader.layer]
        there = stays[f"{written}.weight", 0]
        count = kept(site.count, mlp_ratio)
        if count < there.sum():
            raise InputError(
                f"mlp_ratio={mlp_ratio:g} leaves {count} of {site.name}, and the pruned model has {there.sum()}: "
                "prune the dense model instead"
            )
        wanted = _with_the_best(there, importance.groups[site.name], count)
        old = there[wanted]
        for leaf in ("weight", "bias"):
            rows = whole[f"{written}.{leaf}"][wanted].clone()
            rows[old] = state[f"{written}.{leaf}"]
            state[f"{written}.{leaf}"] = rows
        start = ours[site.name].readers[0].start  # columns before are of heads
        weight = state[f"{read}.weight"]
        columns = weight.new_zeros(len(weight), count)
        columns[:, old] = weight[:, start:]
        state[f"{read}.weight"] = torch.cat([weight[:, :start], columns], 1)
    return rebuilt(pruned, state, {"pruned_mlp_ratio": mlp_ratio})


def _with_the_best(there: Tensor, scores: Tensor, count: int) -> Tensor:
    """Indices, in order, of what is `there` and of others with the highest scores, `count` in all."""
    ranked = scores.masked_fill(there, float("inf")).argsort(descending=True, stable=True)
    return ranked[:count].sort().values
