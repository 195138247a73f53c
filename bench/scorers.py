"""Clips -> scores: the one door between the bench and whoever scores.

A scorer is an object with the three members below; name it in a suite as `scorer: package.module:NAME`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from bench.errors import SuiteError, UnsupportedError
from bench.records import ExamRow, Score
from bench.systems import Output, Request, check_texts
from magic141.data.factors import FPS, FRAME_SIZE


@dataclass(frozen=True)
class Scores:
    """`aggregate` has every metric that was asked for. `per_sample` has one row a clip, in order; columns that
    are named like a metric hold what its aggregate is made of, and are compared in pairs.
    """

    aggregate: dict[str, Score]
    per_sample: list[dict[str, Any]]


@dataclass(frozen=True)
class Clips:
    """What is known of clips that are to be scored; None: not known (yet).

    `scenes`: whether their prompts are of the lab world. `frames`: of each clip. `size`: (height, width) in pixels.
    `fps`: frames a second.
    """

    scenes: bool | None = None
    frames: int | None = None
    size: tuple[int, int] | None = None
    fps: int | None = None


class Scorer(Protocol):
    """It may have a fourth member, `objection`, as `LabScorer` has: why it cannot score such clips. It is asked
    before anything runs, and again when the first clip is there.
    """

    imports: Sequence[str]
    """Modules to have imported before any cell."""

    def protocols(self, metrics: Sequence[str], clips: int, num_frames: int) -> dict[str, str]:
        """Protocol string of each metric, without heavy imports. Raises InputError for an unknown metric."""
        ...

    def score(self, output: Output, requests: Sequence[Request], metrics: Sequence[str]) -> Scores: ...


def check_scorer(path: str, scorer: object) -> None:
    """Raises SuiteError where what is named as a scorer has no imports, or no methods to score with."""
    check_texts(f"scorer {path}", "imports", getattr(scorer, "imports", None), "names of modules")
    for name in ("protocols", "score"):
        if not callable(getattr(scorer, name, None)):
            raise SuiteError(
                f"scorer {path} has no method {name}(): see bench/scorers.py for what one offers"
            )


def objection(scorer: Scorer, clips: Clips) -> str:
    """Why `scorer` cannot score such clips, with the remedy; empty where it can, or has no say."""
    ask: Callable[[Clips], str] | None = getattr(scorer, "objection", None)
    return "" if ask is None else ask(clips)


def lab_objection(clips: Clips, frames: Sequence[int] = ()) -> str:
    """What every judge of the lab world needs: its prompts, its size, its pace, and one of `frames`, if any."""
    if clips.scenes is False:
        return "lab scores need prompts of the lab world: give `prompts: {split: …}`, or another `scorer`"
    if clips.size is not None and clips.size != (FRAME_SIZE, FRAME_SIZE):
        height, width = clips.size
        return (
            f"lab scores read frames of {FRAME_SIZE} x {FRAME_SIZE} pixels, and these are {width} x {height}: let the "
            "system make or resize to such frames, or give another `scorer`"
        )
    if clips.frames is not None and frames and clips.frames not in frames:
        return (
            f"lab scores read clips of {' or '.join(map(str, frames))} frames, and these have {clips.frames}: let the "
            "system make so many, or give another `scorer`"
        )
    if clips.fps is not None and clips.fps != FPS:
        return (
            f"lab scores compare motion with truth at {FPS} frames a second, and these clips play at {clips.fps}: let "
            f"the system make them for fps={FPS}, or give another `scorer`"
        )
    return ""


def made(output: Output, requests: Sequence[Request], fps: int | None = None) -> Clips:
    """What is known of clips once they are there."""
    _, frames, height, width, _ = output.frames.shape
    scenes = all(request.scene is not None for request in requests)
    return Clips(scenes, frames, (height, width), fps)


class Examinable(Protocol):
    """A scorer whose scores can be examined: what do they answer to harm whose amount is known?"""

    imports: Sequence[str]

    def exam_protocol(self, clips: int) -> str:
        """What the answers depend on. Raises WeightsMissing."""
        ...

    def exam_seconds(self, clips: int) -> float:
        """A rough guess, for the plan."""
        ...

    def exam(self, clips: int) -> list[ExamRow]:
        """One row a score and corruption."""
        ...


class LabScorer:
    """The scores of `evals.lab`: they need prompts of the lab world, whose truth is known."""

    imports = ("evals.lab", "evals.clip_scores")
    of_all_clips = ("fvd-world", "kvd-world", "motion-ratio", "flow-ratio")
    """Metrics that no single clip has: a gate, which pairs prompts, cannot take them."""

    def protocols(self, metrics: Sequence[str], clips: int, num_frames: int) -> dict[str, str]:
        from evals import catalogue

        return {
            name: catalogue.protocol(name, n=clips, num_frames=num_frames)
            for name in catalogue.check_metrics(metrics)
        }

    def objection(self, clips: Clips) -> str:
        from evals import catalogue

        return lab_objection(clips, (1, catalogue.CLIP_FRAMES))

    def score(self, output: Output, requests: Sequence[Request], metrics: Sequence[str]) -> Scores:
        from evals import catalogue, lab

        if why := self.objection(made(output, requests)):
            raise UnsupportedError(why)
        scenes = [request.scene for request in requests if request.scene is not None]
        prompts = [request.prompt for request in requests]
        found = lab.score(output.frames, scenes, output.first_frames, prompts, metrics)
        aggregate = {}
        for name in metrics:
            if name in found.aggregate:
                aggregate[name] = Score(**asdict(found.aggregate[name]))
            else:
                metric, frames = catalogue.METRICS[name], output.frames.shape[1]
                aggregate[name] = Score(
                    value=None,
                    n=len(requests),
                    protocol=catalogue.protocol(name, n=len(requests), num_frames=frames),
                    better=metric.better,
                    target=metric.target,
                    unit=metric.unit,
                    note=found.omitted[name],
                )
        table = found.per_sample.drop(columns="prompt")
        names = [str(name) for name in table.columns]
        rows = [dict(zip(names, row, strict=True)) for row in table.itertuples(index=False)]
        return Scores(aggregate, rows)

    def exam_protocol(self, clips: int) -> str:
        from evals import catalogue

        return " | ".join(catalogue.protocol(name, n=clips) for name in catalogue.METRICS)

    def exam_seconds(self, clips: int) -> float:
        return 6.0 * clips

    def exam(self, clips: int) -> list[ExamRow]:
        from evals.exam import N, examine

        return [
            ExamRow(
                score=answer.score,
                corruption=answer.corruption,
                values=answer.values,
                monotone=answer.monotone,
                signal=answer.signal,
                n=N,
                verdict=answer.verdict,
            )
            for answer in examine(clips)
        ]


LAB = LabScorer()
