"""Scripted systems with faults that need more than a scripted outcome; children import them by name."""

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from bench.baselines.fake import Fake, FakeScorer
from bench.errors import UnsupportedError
from bench.scorers import Scores
from bench.systems import Output, Request, Stages

HELD = 60_000_000
"""Bytes that a system holds when its fault comes, beyond those of `Fake`."""


@dataclass
class Faulty(Fake):
    """Does `fault` in `stage` of the pass `phase`."""

    fault: Literal[
        "none", "raise", "allocate", "wrapped", "hang", "sigkill", "nan", "floats", "pace", "disk", "full"
    ] = "none"
    phase: str = "first"
    stage: str = "denoise"

    def generate(self, requests: Sequence[Request], stages: Stages) -> Output:
        phase = getattr(getattr(stages, "stages", None), "_phase", "memory")

        def watched(name: str) -> AbstractContextManager[None]:
            return self._enter(stages, name) if phase == self.phase and name == self.stage else stages(name)

        output = super().generate(requests, watched)
        if self.fault == "nan" and phase == self.phase:
            output.frames[0] = 0  # what a NaN becomes when it is cast without a look
        if self.fault == "floats" and phase == self.phase:
            return Output(output.frames.astype(np.float32))
        if self.fault == "pace" and phase == self.phase:  # no video file takes it
            vars(self)["fps"] = 1000
        return output

    @contextmanager
    def _enter(self, stages: Stages, name: str):  # type: ignore[no-untyped-def]
        with stages(name):
            self._do()
            yield

    def load(self) -> None:
        super().load()
        if self.stage == "load":
            self._do()

    def _do(self) -> None:
        held = np.ones(HELD, np.uint8)
        if self.fault == "raise":
            raise ValueError("scripted")
        if self.fault == "allocate":
            held = np.ones(20 * HELD, np.uint8)
        if self.fault == "wrapped":
            try:
                held = np.ones(20 * HELD, np.uint8)
            except MemoryError as error:
                raise ValueError("could not make room") from error
        if self.fault in ("sigkill", "hang"):
            time.sleep(1 if self.fault == "sigkill" else 600)
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault in ("disk", "full"):  # files end here: at the clips, or at the record itself
            resource.setrlimit(resource.RLIMIT_FSIZE, (1700 if self.fault == "disk" else 100, -1))
        del held


@dataclass
class Torch(Fake):
    """Asks torch for more than there is."""

    imports: ClassVar[tuple[str, ...]] = ("torch",)

    def load(self) -> None:
        import torch

        self._tensor = torch.ones(20 * HELD, dtype=torch.uint8)


class BrokenScorer(FakeScorer):
    def score(self, output: Output, requests: Sequence[Request], metrics: Sequence[str]) -> Scores:
        raise ValueError("scripted")


class NanScorer(FakeScorer):
    def score(self, output: Output, requests: Sequence[Request], metrics: Sequence[str]) -> Scores:
        scores = super().score(output, requests, metrics)
        nan = {
            name: score.model_copy(update={"value": float("nan")}) for name, score in scores.aggregate.items()
        }
        return Scores(nan, scores.per_sample)


BROKEN = BrokenScorer()
NAN = NanScorer()


@dataclass
class LosesItsWorker(Fake):
    """Kills the process that started its own, until `marker` has `times` lines."""

    marker: str = ""
    times: int = 0

    def generate(self, requests: Sequence[Request], stages: Stages) -> Output:
        marker = Path(self.marker)
        done = marker.read_text().count("\n") if marker.exists() else 0
        parent = multiprocessing.parent_process()
        if done < self.times and parent is not None and parent.pid is not None:
            marker.write_text("lost\n" * (done + 1))
            os.kill(parent.pid, signal.SIGKILL)
            time.sleep(60)
        return super().generate(requests, stages)


@dataclass
class Lacking(Fake):
    """Refuses to be made at 8 steps until `marker` exists, as of a package that is not installed."""

    marker: str = ""

    def __post_init__(self) -> None:
        if self.num_inference_steps == 8 and not Path(self.marker).exists():
            raise UnsupportedError("install the package")


@dataclass
class Flaky(Fake):
    """Crashes until `marker` exists."""

    marker: str = ""

    def load(self) -> None:
        super().load()
        if not Path(self.marker).exists():
            raise RuntimeError("scripted")
