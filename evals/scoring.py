"""Scores any set of clips: measures each, keeps those that failed with their reason, and aggregates the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from evals import clips, statistics
from evals.appearance import MEASURES, SIDE, SMALLEST, Measure, measure
from evals.catalogue import CLIP_METRICS, VBENCH_METRICS, checked
from evals.clips import Source
from evals.panel import flags
from evals.prompts import Origin
from evals.protocol import Score, protocol_string
from evals.results import ClipResult, Flag, ScoreFile
from magic141.errors import InputError

if TYPE_CHECKING:
    from evals.clip_scores import ClipJudge
    from evals.fvd import Extractor, FvdProtocol
    from evals.vbench_networks import Network

Frame = NDArray[np.uint8]

NATIVE = ("flickering", "flow", "dynamic-degree")
"""Measures of the frames as they are; the others are of the working picture, see `evals.appearance`."""
BY_NETWORK = Measure("higher", "", "see `evals.clip_scores` and `evals.vbench`")


@dataclass(frozen=True)
class FvdRequest:
    """A Fréchet video distance to `reference` clips, over the first `frames` frames of each."""

    protocol: FvdProtocol
    extractor: Extractor
    reference: Sequence[Source]
    frames: int


@dataclass(frozen=True)
class Request:
    """What to score, and what is known of the clips.

    measures: names in `appearance.MEASURES`. origins, images: clip name -> prompt and seed, first frame. `prompted`
    says that a prompts file was given, so that a clip without a prompt is worth a word. networks: VBench score -> what
    it runs on. omitted: scores that were asked for and cannot be had -> why.
    """

    measures: Sequence[str] = tuple(MEASURES)
    origins: Mapping[str, Origin] = field(default_factory=dict)
    prompted: bool = False
    images: Mapping[str, Frame] = field(default_factory=dict)
    clip_judge: ClipJudge | None = None
    clip_metrics: Sequence[str] = ()
    networks: Mapping[str, Network] = field(default_factory=dict)
    omitted: Mapping[str, str] = field(default_factory=dict)
    fvd: FvdRequest | None = None


def score_clips(sources: Sequence[Source], request: Request, command: str = "") -> ScoreFile:
    """Score every source, one pass over its frames for each family of scores.

    Memory is that of one frame and of what decodes it; a clip leaves its `ClipResult`, and for a Fréchet distance its
    features.
    """
    # Every picture of the bar leaves strings in the caches of rich; one a second is enough.
    results = [
        _clip(source, request) for source in track(sources, "score", refresh_per_second=1, update_period=1)
    ]
    failed = sum(result.outcome == "failed" for result in results)
    note = f"{failed} of {len(results)} clips failed" if failed else ""
    names = dict.fromkeys([*request.measures, *request.clip_metrics, *request.networks])
    aggregate: dict[str, Score] = {}
    omitted: dict[str, str] = dict(request.omitted)
    for name in names:
        values = [result.values[name] for result in results if name in result.values]
        if values:
            aggregate[name] = _mean(name, values, request, note)
        else:
            omitted[name] = "no clip has a value: see the reason of each"
    warnings: list[str] = []
    if request.fvd is not None:
        ok = [s for s, result in zip(sources, results, strict=True) if result.outcome == "ok"]
        distances, trouble = _distances(ok, request.fvd)
        aggregate |= distances
        warnings += trouble
        if not distances:
            omitted["fvd"] = trouble[-1]
    return ScoreFile(
        command=command, clips=tuple(results), aggregate=aggregate, omitted=omitted, warnings=tuple(warnings)
    )


class _Seen:
    """Frames on their way to a measure, counted."""

    def __init__(self, frames: Iterable[Frame]) -> None:
        self.frames, self.count, self.shape = frames, 0, (0, 0, 0)

    def __iter__(self) -> Iterator[Frame]:
        for frame in self.frames:
            self.count, self.shape = self.count + 1, frame.shape
            yield frame


def _clip(source: Source, request: Request) -> ClipResult:
    origin = request.origins.get(source.name)
    prompt, seed = (None, None) if origin is None else (origin.prompt, origin.seed)
    seen = _Seen(clips.frames(source))
    reasons = []
    try:
        measured = measure(seen)
        found = tuple(Flag(name=flag.name, evidence=str(flag)) for flag in flags(measured))
        values = {name: measured[name] for name in request.measures}
        rate = clips.fps(source)
        if request.clip_judge is not None:
            from evals.clip_scores import clip_scores

            image = request.images.get(source.name)
            scores = clip_scores(request.clip_judge, clips.frames(source), prompt, image)
            values |= {name: scores[name] for name in request.clip_metrics if name in scores}
            if prompt is not None and request.clip_judge.is_truncated(prompt):
                reasons.append("the prompt is longer than CLIP reads: its end changes nothing")
        if request.networks:
            values |= _by_networks(source, request, rate)
    except (InputError, cv2.error) as error:
        reason = error.reason if isinstance(error, clips.ClipError) else str(error)
        return ClipResult(name=source.name, outcome="failed", reason=reason, prompt=prompt, seed=seed)
    if request.prompted and origin is None:
        reasons.append("no line of the prompts file names this clip")
    height, width, _ = seen.shape
    return ClipResult(
        name=source.name,
        outcome="ok",
        reason="; ".join(reasons),
        prompt=prompt,
        seed=seed,
        frames=seen.count,
        height=height,
        width=width,
        fps=rate,
        values=values,
        flags=found,
    )


def _by_networks(source: Source, request: Request, rate: float | None) -> dict[str, float]:
    from evals.vbench_scores import DIMENSIONS, Clip

    # Images have no rate: at VBench's own of 8 per second it takes every frame.
    clip = Clip(lambda: clips.frames(source), rate or 8.0, request.images.get(source.name))
    found = {name: DIMENSIONS[name].run(network, clip) for name, network in request.networks.items()}
    return {name: value for name, value in found.items() if value is not None}


def _mean(name: str, values: Sequence[float], request: Request, note: str) -> Score:
    estimate = statistics.mean(values)
    known = len(values) > 1
    entry = MEASURES.get(name, BY_NETWORK)
    if request.clip_judge is not None and name in request.clip_metrics:
        protocol = request.clip_judge.protocol(name)
    elif name in request.networks:
        from evals import vbench

        protocol = vbench.protocol(name, request.networks[name])
    else:
        size = "native size" if name in NATIVE else f"short side at most {SIDE}"
        protocol = protocol_string(name, frames="all", input=f"decoded files, {size}, native rate")
    return Score(
        value=estimate.value,
        low=estimate.low if known else None,
        high=estimate.high if known else None,
        n=estimate.n,
        protocol=protocol,
        better=entry.better,
        target=entry.target,
        note=note,
        unit=entry.unit,
    )


def _distances(sources: Sequence[Source], request: FvdRequest) -> tuple[dict[str, Score], list[str]]:
    """Scores by name, and what went wrong on the way."""
    from evals.fvd import fvd

    trouble: list[str] = []
    try:
        rows = [_features(part, request, trouble) for part in (sources, request.reference)]
        if min(map(len, rows)) < 2:
            raise InputError(f"a distance needs 2 clips on each side, got {len(rows[0])} and {len(rows[1])}")
        found = fvd(
            rows[0], rows[1], request.protocol, frames=request.frames, extractor=request.extractor.sha256
        )
    except InputError as error:
        return {}, [*trouble, str(error)]
    scores = {"fvd": found.plain, "fvd-infinity": found.infinity, "kvd": found.kernel}
    return {name: value for name, value in scores.items() if value is not None}, trouble


def _features(sources: Sequence[Source], request: FvdRequest, trouble: list[str]) -> NDArray[np.float64]:
    """(n, 400) features of the clips that are long and large enough; the others are named in `trouble`."""
    from evals.fvd import WIDTH, features

    def enough() -> Iterator[NDArray[np.uint8]]:
        for source in track(sources, "features"):
            try:
                window = list(islice(clips.frames(source), request.frames))
            except InputError as error:
                trouble.append(str(error))
                continue
            height, width, _ = window[0].shape
            if len(window) < request.frames:
                trouble.append(
                    f"{source.name}: {len(window)} frames, and {request.frames} are needed for FVD"
                )
            elif min(height, width) < SMALLEST:
                trouble.append(f"{source.name}: frames of {width}x{height} are too small for FVD")
            else:
                yield np.stack(window)

    parts = list(features(enough(), request.extractor, request.protocol))
    return np.concatenate([np.empty((0, WIDTH)), *parts])


@dataclass(frozen=True)
class Wanted:
    """Names of scores by what they need."""

    measures: list[str]
    clip: list[str]
    vbench: list[str]
    fvd: bool


def check_names(names: Sequence[str] | None) -> Wanted:
    """The names sorted out; all measures that need no weights by default.

    Raises InputError for an unknown name, with the nearest known one.
    """
    known = [*MEASURES, *CLIP_METRICS, *VBENCH_METRICS, "fvd"]
    wanted = tuple(MEASURES) if names is None else checked(names, known)
    return Wanted(
        measures=[name for name in wanted if name in MEASURES],
        clip=[name for name in wanted if name in CLIP_METRICS],
        vbench=[name for name in wanted if name in VBENCH_METRICS],
        fvd="fvd" in wanted,
    )
