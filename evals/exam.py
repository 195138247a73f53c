"""The exam of scores: how each answers to graded harm whose amount is known, and so which deserve belief.

For every score and corruption: its value at each level, whether it moves one way as the harm grows (Spearman's rank
correlation of level and value), and its signal to noise: the shift at the worst level over the standard error that
the score has with `N` clips. Below 2, `N` clips cannot show even the worst harm.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from scipy import stats

from evals import lab, motion, statistics
from evals.appearance import MEASURES, measure
from evals.catalogue import METRICS
from evals.corruptions import CORRUPTIONS, LEVELS
from evals.protocol import Better
from magic141.data.render import render
from magic141.data.world import World

FIRST = 3_000_000
"""Index of the first scene: after those of training, statistics and the judge's own exam."""
N = 64
BELIEVED = 2.0
CERTAIN = 99.0
"""A signal to noise beyond this is not told apart."""
FLOW_RATIO = "flow-ratio"
Result = TypeVar("Result")

SHADES = {"sees": 1.0, "moves": 0.4, "blind": 0.0, "fooled": -1.0}


@dataclass(frozen=True)
class Answer:
    """How one score answers to one corruption. values: by level, truth first. monotone: Spearman's rho in [-1, 1].

    signal: (value at the worst level - value of truth) / standard error with N clips; its sign is that of the shift.
    """

    score: str
    corruption: str
    better: Better
    values: tuple[float, ...]
    monotone: float
    signal: float

    @property
    def verdict(self) -> str:
        """sees: harm lowers it; fooled: harm raises it; moves: neither way is better; blind: nothing shows."""
        if abs(self.signal) < BELIEVED:
            return "blind"
        if self.better == "descriptive":
            return "moves"
        if self.better == "target":
            return "sees"
        return "sees" if (self.signal > 0) == (self.better == "lower") else "fooled"


def examine(clips: int, corruptions: Sequence[str] = tuple(CORRUPTIONS), seed: int = 0) -> list[Answer]:
    """Answers of every lab score and every measure without weights, on `clips` truth clips of the test split."""
    scenes = World().scenes("test", FIRST, clips)
    truth = render(scenes).numpy()
    true_flow = _flow(truth)
    unharmed = _scores(truth, truth, true_flow, scenes)
    answers = []
    for name in track(list(corruptions), "exam"):
        levels = [unharmed]
        for level in range(1, LEVELS + 1):
            harmed = CORRUPTIONS[name](scenes, truth, level, np.random.default_rng((seed, level)))
            levels.append(_scores(harmed, truth, true_flow, scenes))
        for score, (_, error, better) in unharmed.items():
            if all(score in found for found in levels):
                values = tuple(found[score][0] for found in levels)
                answers.append(_answer(score, name, better, values, error))
    return answers


def plot(answers: Sequence[Answer], path: Path) -> None:
    """A heat map of signal to noise, scores down and corruptions across; red is fooled, written is the verdict."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    scores, harms = (
        list(dict.fromkeys(getattr(a, what) for a in answers)) for what in ("score", "corruption")
    )
    cells = np.full((len(scores), len(harms)), np.nan)
    figure, axes = plt.subplots(
        figsize=(1.1 * len(harms) + 3, 0.28 * len(scores) + 1.5), layout="constrained"
    )
    for answer in answers:
        row, column = scores.index(answer.score), harms.index(answer.corruption)
        cells[row, column] = SHADES[answer.verdict] * min(abs(answer.signal), 10) / 10
        axes.text(column, row, f"{answer.verdict} {answer.monotone:+.1f}", ha="center", va="center", size=7)
    axes.imshow(cells, cmap="RdBu", vmin=-1.5, vmax=1.5, aspect="auto")
    axes.set_xticks(range(len(harms)), harms)
    axes.set_yticks(range(len(scores)), scores, size=8)
    axes.set_title(
        f"What scores see of graded harm, at n = {N}: verdict and rank correlation with the amount", size=9
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _answer(score: str, corruption: str, better: Better, values: tuple[float, ...], error: float) -> Answer:
    shift = values[-1] - values[0]
    # A score that is the same for every truth clip has no spread: any shift is beyond doubt.
    signal = float(np.clip(shift / max(error, 1e-12), -CERTAIN, CERTAIN))
    constant = len(set(values)) == 1
    rho = 0.0 if constant else float(stats.spearmanr(range(len(values)), values).statistic)
    return Answer(score, corruption, better, values, rho, signal)


def _scores(
    clips: NDArray[np.uint8], truth: NDArray[np.uint8], true_flow: NDArray[np.float64], scenes: Sequence
) -> dict[str, tuple[float, float, Better]]:
    """Score -> value, standard error with N clips, and which way is better."""
    found: dict[str, tuple[float, float, Better]] = {}
    # Asked for the flow ratio, the lab would draw the truth anew at every level, and follow it.
    names = [name for name in METRICS if name != FLOW_RATIO]
    for name, score in lab.score(clips, scenes, truth[:, 0], metrics=names).aggregate.items():
        if score.low is not None and score.high is not None:
            found[name] = (score.value, _error(score.low, score.high, score.n), score.better)
    value, low, high, n = statistics.ratio_of_means(_flow(clips), true_flow)
    found[FLOW_RATIO] = (value, _error(low, high, n), METRICS[FLOW_RATIO].better)
    for name, column in _measured(clips):
        if name not in found:  # flickering is a lab score too
            found[name] = (
                float(column.mean()),
                float(column.std(ddof=1)) / math.sqrt(N),
                MEASURES[name].better,
            )
    return found


def _error(low: float, high: float, n: int) -> float:
    """Standard error with N clips, from the 95 % interval with n."""
    return (high - low) / (2 * float(stats.norm.ppf(0.975))) * math.sqrt(n / N)


def _flow(clips: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Flow magnitude (N,) as the flow ratio of the lab takes it: of generated frames only."""
    return np.array(_each(lambda clip: motion.flow_magnitude(clip[1:]), clips))


def _each(of: Callable[[NDArray[np.uint8]], Result], clips: NDArray[np.uint8]) -> list[Result]:
    """`of` every clip, several at once: OpenCV works outside of Python's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(of, clips))


def _measured(clips: NDArray[np.uint8]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    rows = _each(measure, clips)
    for name in MEASURES:
        yield name, np.array([row[name] for row in rows])
