"""Two score files, clip by clip: what is shown to be better, what worse, and what these clips cannot tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from evals import statistics
from evals.protocol import Score, require_same_protocol
from evals.results import ClipResult, ScoreFile
from evals.statistics import Estimate
from magic141.errors import InputError

Verdict = Literal["better", "worse", "differs", "no difference shown", "not testable"]
Key = tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Of one metric: both aggregates, and the mean paired difference second minus first, where clips pair."""

    metric: str
    first: Score
    second: Score
    difference: Estimate | None
    verdict: Verdict


def compare(first: ScoreFile, second: ScoreFile) -> Iterator[Comparison]:
    """Every metric that both have. Clips pair by prompt and seed, or by name where no prompts are known.

    Raises:
        ProtocolMismatch: a metric was measured by different protocols.
        InputError: no metric or no clip in common, or two clips of one file with one prompt and seed.
    """
    common = [name for name in first.aggregate if name in second.aggregate]
    if not common:
        raise InputError("the two files have no metric in common; score both with the same --metrics")
    for name in common:
        require_same_protocol(first.aggregate[name], second.aggregate[name])
    by_prompt = all(clip.prompt is not None for file in (first, second) for clip in file.clips)
    clips = [_by_key(file, by_prompt) for file in (first, second)]
    keys = [key for key in clips[0] if key in clips[1]]
    if not keys:
        what = "prompt and seed" if by_prompt else "name"
        raise InputError(f"no clip of one file has the {what} of a clip of the other; nothing can be paired")
    for name in common:
        values = [
            (clips[0][key].values[name], clips[1][key].values[name])
            for key in keys
            if name in clips[0][key].values and name in clips[1][key].values
        ]
        one, two = first.aggregate[name], second.aggregate[name]
        if len(values) < 2:
            yield Comparison(name, one, two, None, "not testable")
            continue
        befores, afters = zip(*values, strict=True)
        difference = statistics.paired_difference(afters, befores)
        yield Comparison(name, one, two, difference, verdict(difference, one.better))


def _by_key(file: ScoreFile, by_prompt: bool) -> dict[Key, ClipResult]:
    found: dict[Key, ClipResult] = {}
    for clip in file.clips:
        key = (clip.prompt or "", clip.seed or "") if by_prompt else (clip.name,)
        if key in found:
            raise InputError(
                f"{found[key].name!r} and {clip.name!r} have the same prompt and seed, so neither can be"
                " paired; tell them apart by a seed column in the prompts file"
            )
        if clip.outcome == "ok":
            found[key] = clip
    return found


def verdict(difference: Estimate, better: str) -> Verdict:
    """What a paired `difference` says of the second one; `better` is as in `Score`. One pair shows nothing."""
    if difference.n < 2:
        return "not testable"
    if difference.low <= 0 <= difference.high:
        return "no difference shown"
    if better in ("target", "descriptive"):
        return "differs"
    return "better" if (difference.value > 0) == (better == "higher") else "worse"
