"""Long videos -> scores: drift, seams, and what the last window still shows (`evals.longvideo`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bench.errors import UnsupportedError
from bench.records import Score
from bench.scorers import Clips, Scores, lab_objection, made
from bench.systems import Output, Request
from evals import longvideo_catalogue as catalogue


class LongVideoScorer:
    """A row of samples has, beside its scores, `curves`: score -> one number a window, None where undefined, and
    `window_seconds` from one to the next.
    """

    imports = ("evals.longvideo",)

    def protocols(self, metrics: Sequence[str], clips: int, num_frames: int) -> dict[str, str]:
        return {name: catalogue.protocol(name) for name in catalogue.check_metrics(metrics)}

    def objection(self, clips: Clips) -> str:
        return lab_objection(clips)

    def score(self, output: Output, requests: Sequence[Request], metrics: Sequence[str]) -> Scores:
        from evals import longvideo

        if why := self.objection(made(output, requests)):
            raise UnsupportedError(why)
        scenes = [request.scene for request in requests if request.scene is not None]
        videos = [
            longvideo.measure(frames, scene, output.starts)
            for frames, scene in zip(output.frames, scenes, strict=True)
        ]
        aggregate = {}
        for name in metrics:
            metric, found = catalogue.METRICS[name], longvideo.aggregate(videos, name)
            known = found is not None and math.isfinite(found.low) and math.isfinite(found.high)
            aggregate[name] = Score(
                value=None if found is None else found.value,
                low=found.low if known and found else None,
                high=found.high if known and found else None,
                n=found.n if found else len(videos),
                protocol=catalogue.protocol(name),
                better=metric.better,
                target=metric.target,
                unit=metric.unit,
                note="" if found else "not defined in these videos: too few windows, or another law",
            )
        return Scores(aggregate, [_row(video, metrics) for video in videos])


def _row(video: Any, metrics: Sequence[str]) -> dict[str, Any]:
    found = {name: video.value(name) for name in metrics}
    row: dict[str, Any] = {name: None if one is None else one.value for name, one in found.items()}
    row["window_seconds"] = catalogue.SECONDS_PER_WINDOW
    row["curves"] = {
        name: [None if math.isnan(value) else round(float(value), 6) for value in values]
        for name, values in video.curves.items()
    }
    return row


LONG = LongVideoScorer()
