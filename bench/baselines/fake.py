"""A scripted system and its scorer, without torch: tests of the harness take seconds with them."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from bench.baselines import fake_clock
from bench.errors import SuiteError, UnsupportedError, nearest
from bench.records import ExamRow, Score
from bench.scorers import Scores
from bench.systems import Output, Request, Stages, to_uint8
from magic141.errors import WeightsMissing
from magic141.stages import DENOISE, TEXT_ENCODE, VAE_DECODE

Script = Literal[
    "ok", "oom", "timeout", "unsupported", "weights-missing", "invalid", "crashed", "killed", "exit"
]
METRICS = ("brightness", "noise")
CLOCK_STEPS = 512
"""Steps after which a scripted clock begins again."""


@dataclass
class Fake:
    """Sleeps `latency` seconds a step, holds `memory` bytes, and ends as `outcome` says when it reaches `stage`.

    Frames are a pure function of prompt, seed and `num_inference_steps`: noise of amplitude 1 / steps on grey.
    """

    num_inference_steps: int = 4
    batch_size: int = 1
    latency: float = 0.0
    memory: int = 4_000_000
    outcome: Script = "ok"
    stage: str = "load"

    imports: ClassVar[tuple[str, ...]] = ()
    fps: ClassVar[int] = 16

    def weights(self) -> str | None:
        return None

    def seconds_per_clip(self) -> float:
        return self.latency * self.num_inference_steps

    def load(self) -> None:
        self._held = np.ones(self.memory, np.uint8)
        self._script("load")

    def generate(self, requests: Sequence[Request], stages: Stages) -> Output:
        with stages(TEXT_ENCODE):
            self._script(TEXT_ENCODE)
        scratch = np.ones(self.memory, np.uint8)
        for _ in range(self.num_inference_steps):
            with stages(DENOISE):
                self._script(DENOISE)
                time.sleep(self._step_seconds())
        with stages(VAE_DECODE):
            self._script(VAE_DECODE)
            frames = np.stack([self._frames(request) for request in requests])
        if self.outcome == "invalid":
            frames[:] = np.nan
        del scratch
        return Output(to_uint8(frames))

    def _step_seconds(self) -> float:
        return self.latency

    def _frames(self, request: Request) -> np.ndarray:
        digest = hashlib.sha256(f"{request.prompt}\n{request.seed}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        noise = rng.random((5, 16, 16, 3), dtype=np.float32)
        return 0.5 + (noise - 0.5) / self.num_inference_steps

    def _script(self, stage: str) -> None:
        if stage != self.stage or self.outcome in ("ok", "invalid"):
            return
        if self.outcome == "oom":
            raise MemoryError("scripted")
        if self.outcome == "unsupported":
            raise UnsupportedError("scripted: this system cannot do that")
        if self.outcome == "weights-missing":
            raise WeightsMissing("scripted: no weights anywhere")
        if self.outcome == "crashed":
            raise RuntimeError("scripted")
        if self.outcome == "exit":
            os._exit(3)
        if self.outcome == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(3600)


@dataclass
class Drifting(Fake):
    """`Fake` with a machine around it: `clock`, one of `fake_clock.CLOCKS`, stretches its steps.

    It is process number `process` on the machine of `clock_seed`. `slowdown` stretches all steps by a share, and each
    generation holds on to `growth` bytes more.
    """

    clock: str = "jitter"
    clock_seed: int = 0
    process: int = 0
    slowdown: float = 0.0
    growth: int = 0

    def __post_init__(self) -> None:
        fake_clock.find(self.clock)

    def seconds_per_clip(self) -> float:
        return super().seconds_per_clip() * (1 + self.slowdown)

    def load(self) -> None:
        factors = fake_clock.factors(self.clock, self.clock_seed, self.process, CLOCK_STEPS)
        self._factors = itertools.cycle((1 + self.slowdown) * factors)
        self._leaked: list[np.ndarray] = []
        super().load()

    def generate(self, requests: Sequence[Request], stages: Stages) -> Output:
        self._leaked.append(np.ones(self.growth, np.uint8))
        return super().generate(requests, stages)

    def _step_seconds(self) -> float:
        return self.latency * float(next(self._factors))


class FakeScorer:
    """Mean brightness in [0, 1], and noise: the standard deviation of a clip's pixels. Normal intervals."""

    imports: ClassVar[tuple[str, ...]] = ()

    def protocols(self, metrics: Sequence[str], clips: int, num_frames: int) -> dict[str, str]:
        for name in metrics:
            if name not in METRICS:
                raise SuiteError(f"unknown metric {name!r}{nearest(name, METRICS)}")
        return {name: f"{name}; input=arrays; n={clips}" for name in metrics}

    def score(self, output: Output, requests: Sequence[Request], metrics: Sequence[str]) -> Scores:
        flat = output.frames.reshape(len(requests), -1) / 255
        columns = {"brightness": flat.mean(1), "noise": flat.std(1)}
        aggregate = {}
        for name, protocol in self.protocols(metrics, len(requests), 0).items():
            values = columns[name]
            half = 1.96 * float(values.std()) / len(values) ** 0.5
            mean = float(values.mean())
            aggregate[name] = Score(
                value=mean,
                low=mean - half,
                high=mean + half,
                n=len(values),
                protocol=protocol,
                better="higher" if name == "brightness" else "lower",
            )
        per_sample = [{name: columns[name][place] for name in metrics} for place in range(len(requests))]
        return Scores(aggregate, per_sample)

    def exam_protocol(self, clips: int) -> str:
        return "noise of known strength on grey"

    def exam_seconds(self, clips: int) -> float:
        return 0.01 * clips

    def exam(self, clips: int) -> list[ExamRow]:
        """Both metrics on grey pixels with noise of growing strength: one sees it, the other does not."""
        harm = np.random.default_rng(0).normal(size=(clips, 256))
        harm -= harm.mean(1, keepdims=True)
        levels = [0.5 + 0.05 * level * harm for level in range(3)]
        columns = {
            "brightness": [values.mean(1) for values in levels],
            "noise": [values.std(1) for values in levels],
        }
        rows = []
        for name, values in columns.items():
            means = tuple(round(float(value.mean()), 9) for value in values)
            rows.append(
                ExamRow(
                    score=name,
                    corruption="noise",
                    values=means,
                    monotone=float(np.sign(means[-1] - means[0])),
                    signal=99.0 if means[-1] > means[0] else 0.0,
                    n=clips,
                    verdict="sees" if means[-1] > means[0] else "blind",
                )
            )
        return rows


SCORER = FakeScorer()
