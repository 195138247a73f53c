"""The exam of scores: how each answers to graded harm whose amount is known, and so which deserve belief.

For every score and corruption: its value at each level, whether it moves one way as the harm grows (Spearman's rank
correlation of level and value), and its signal to noise: the shift at the worst level over the standard error that
the score has with `N` clips, there or at the truth, whichever is larger. Below 2, `N` clips cannot show even the worst
harm.
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
from magic141.errors import InputError

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
    target: the best value where `better` is "target".
    """

    score: str
    corruption: str
    better: Better
    values: tuple[float, ...]
    monotone: float
    signal: float
    target: float | None = None

    @property
    def verdict(self) -> str:
        """sees: harm lowers it; fooled: harm raises it; moves: neither way is better; blind: nothing shows."""
        if abs(self.signal) < BELIEVED:
            return "blind"
        if self.better == "descriptive":
            return "moves"
        first, last = (self._cost(value) for value in (self.values[0], self.values[-1]))
        return "sees" if last > first else "fooled"

    def _cost(self, value: float) -> float:
        if self.better == "target":
            return abs(value - (self.target or 0.0))
        return value if self.better == "lower" else -value


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
        for score in unharmed:
            if all(score in found for found in levels):
                answers.append(_answer(score, name, [found[score] for found in levels]))
    return answers


def check_format(path: Path) -> None:
    """Raises InputError where a figure cannot be written in the format that the end of `path` names."""
    from matplotlib.figure import Figure

    known = sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix.lstrip(".").lower() not in known:
        raise InputError(f"{path.name!r} ends as no picture that can be drawn: use one of {', '.join(known)}")


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


@dataclass(frozen=True)
class _Value:
    """`error`: standard error with N clips."""

    value: float
    error: float
    better: Better
    target: float | None


def _answer(score: str, corruption: str, levels: Sequence[_Value]) -> Answer:
    truth, worst = levels[0], levels[-1]
    values = tuple(level.value for level in levels)
    # A ratio to truth has no spread at the truth itself, and one that is the same for every clip has none at all:
    # then any shift is beyond doubt.
    error = max(truth.error, worst.error, 1e-12)
    signal = float(np.clip((worst.value - truth.value) / error, -CERTAIN, CERTAIN))
    constant = len(set(values)) == 1
    rho = 0.0 if constant else float(stats.spearmanr(range(len(values)), values).statistic)
    return Answer(score, corruption, truth.better, values, rho, signal, truth.target)


def _scores(
    clips: NDArray[np.uint8], truth: NDArray[np.uint8], true_flow: NDArray[np.float64], scenes: Sequence
) -> dict[str, _Value]:
    """What every score says of `clips`."""
    found: dict[str, _Value] = {}
    # Asked for the flow ratio, the lab would draw the truth anew at every level, and follow it.
    names = [name for name in METRICS if name != FLOW_RATIO]
    for name, score in lab.score(clips, scenes, truth[:, 0], metrics=names).aggregate.items():
        if score.low is not None and score.high is not None:
            error = _error(score.low, score.high, score.n)
            found[name] = _Value(score.value, error, score.better, score.target)
    value, low, high, n = statistics.ratio_of_means(_flow(clips), true_flow)
    ratio = METRICS[FLOW_RATIO]
    found[FLOW_RATIO] = _Value(value, _error(low, high, n), ratio.better, ratio.target)
    for name, column in _measured(clips):
        if name not in found:  # flickering is a lab score too
            error = float(column.std(ddof=1)) / math.sqrt(N)
            found[name] = _Value(float(column.mean()), error, MEASURES[name].better, MEASURES[name].target)
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
