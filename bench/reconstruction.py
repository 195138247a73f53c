"""How faithful an autoencoder is on unseen clips: signal to noise, and what the lab's scores make of its clips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

from rich.progress import track

from bench.baselines.reconstruction import Reconstruction
from bench.records import Score
from bench.scorers import LAB
from bench.systems import Output, Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BATCH = 32
REACH = 2
"""Pixels by which the mask of an object is dilated: its edge counts."""
METRICS = (
    "fvd-world",
    *(f"accuracy-{name}" for name in ("colour", "shape", "size", "background", "tone", "hue", "texture")),
    *(f"accuracy-{name}" for name in ("motion", "direction", "camera")),
    "motion-ratio",
)


def examine(model: str, clips: int) -> dict[str, Score]:
    """Scores of the first `clips` clips of the test split, encoded and decoded by the autoencoder of `model`.

    PSNR is of a clip, in dB, and then a mean over clips; of its object, over the pixels of all frames that lie in its
    dilated mask.

    Raises WeightsMissing, InputError for too few clips.
    """
    import numpy as np

    from evals import statistics
    from magic141.data.world import World

    scenes = World().scenes("test", 0, clips)
    requests = [Request(index, scene.caption(), index, scene) for index, scene in enumerate(scenes)]
    system = Reconstruction(model=model)
    system.load()
    made: list[NDArray[np.uint8]] = []
    rows: list[tuple[float, float]] = []
    for start in track(range(0, clips, BATCH), "encode and decode"):
        batch = requests[start : start + BATCH]
        made.append(system.generate(batch, lambda _stage: nullcontext()).frames)
        rows += _ratios(batch, made[-1])
    moving = np.array([scene.texture.kind > 0 for scene in scenes])
    whole, inside = np.array(rows).T
    parts = {
        "psnr-still": whole[~moving],
        "psnr-moving": whole[moving],
        "psnr-object": inside[~np.isnan(inside)],
    }
    found: dict[str, Score] = {}
    for name, values in parts.items():
        mean = statistics.mean(values)
        found[name] = Score(
            value=mean.value, low=mean.low, high=mean.high, n=len(values), better="higher", unit="dB",
            protocol="10 log10(255^2 / mean squared error), mean over clips",
        )  # fmt: skip
    return found | LAB.score(Output(np.concatenate(made)), requests, METRICS).aggregate


def _ratios(requests: list[Request], made: NDArray[np.uint8]) -> Iterator[tuple[float, float]]:
    """Of each clip and of its object, in dB; NaN where no object is to be seen."""
    import numpy as np

    from magic141.data.render import masks, render
    from magic141.train.vae import dilated

    scenes, frames = [request.scene for request in requests if request.scene is not None], made.shape[1]
    squared = (made.astype(np.float64) - render(scenes, frames).numpy()) ** 2
    inside = dilated(masks(scenes, frames), REACH)[:, 0].numpy() > 0
    for error, mask in zip(squared, inside, strict=True):
        yield _decibel(error), _decibel(error[mask]) if mask.any() else np.nan


def _decibel(squared: NDArray[np.float64]) -> float:
    import numpy as np

    return float(10 * np.log10(255.0**2 / squared.mean()))


def lines(found: Mapping[str, Score]) -> Iterator[str]:
    """A line a score, as text."""
    for name, score in found.items():
        bounds = "" if score.low is None or score.high is None else f" [{score.low:.4g}, {score.high:.4g}]"
        value = "none" if score.value is None else f"{score.value:.4g}"
        yield f"{name}: {value}{bounds} (n = {score.n})"
