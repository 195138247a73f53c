"""Times of one thing, and ratios of two things timed in turn, A B B A: load on the machine meets both alike.

`extra_info` has what a time is the price of: tokens, bytes (of the input and output, or of parameters), FLOPs. So
`pytest bench/micro --benchmark-autosave` and `pytest-benchmark compare` say whether a time changed with its work.
"""

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from scipy import stats
from torch.utils.flop_counter import FlopCounterMode

WARM_UP = 3
LINES = pytest.StashKey[list[str]]()

Work = Callable[[], object]
Timed = Callable[..., None]
Paired = Callable[[str, Work, Work, int], None]


@pytest.fixture
def paired(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Paired:
    """`paired(title, first, second, rounds)` times both and prints time(first) / time(second).

    The ratio is the median over rounds, with the 95 % interval of the median from order statistics. What
    pytest-benchmark reports is the time of a round, both together.
    """

    def measure(title: str, first: Work, second: Work, rounds: int) -> None:
        seconds: list[tuple[float, float]] = []

        def one_round() -> None:
            order = (0, 1) if len(seconds) % 2 == 0 else (1, 0)
            pair = [0.0, 0.0]
            for i in order:
                pair[i] = timed((first, second)[i])
            seconds.append((pair[0], pair[1]))

        with torch.inference_mode():
            for side, work in (("first", first), ("second", second)):
                benchmark.extra_info[f"{side}_flops"] = flops(work)
            benchmark.pedantic(one_round, rounds=rounds, warmup_rounds=WARM_UP)
        a, b = np.array(seconds[WARM_UP:]).T
        ratios = np.sort(a / b)
        rank = int(stats.binom.ppf(0.025, rounds, 0.5))
        ratio, low, high = float(np.median(ratios)), float(ratios[rank - 1]), float(ratios[rounds - rank])
        benchmark.extra_info |= {"ratio": ratio, "low": low, "high": high}
        request.config.stash.setdefault(LINES, []).append(
            f"{title}: {ratio:.3f} [{low:.3f}, {high:.3f}]  "
            f"({1e3 * np.median(a):.2f} ms against {1e3 * np.median(b):.2f} ms, {rounds} rounds)"
        )

    return measure


@pytest.fixture
def priced(benchmark: BenchmarkFixture) -> Timed:
    """`priced(work, rounds, **price)` times `work`; the price goes to `extra_info`, FLOPs counted unless given."""

    def measure(work: Work, rounds: int, **price: int) -> None:
        with torch.inference_mode():
            benchmark.extra_info |= price if "flops" in price else {**price, "flops": flops(work)}
            benchmark.pedantic(work, rounds=rounds, warmup_rounds=WARM_UP)

    return measure


def flops(work: Work) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def timed(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if lines := config.stash.get(LINES, []):
        terminalreporter.section(f"ratios, {torch.get_num_threads()} threads: median [95 % interval]")
        for line in lines:
            terminalreporter.write_line(line)
