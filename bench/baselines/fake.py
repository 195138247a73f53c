"""A scripted system and its scorer, without torch: tests of the harness take seconds with them."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from bench.errors import UnsupportedError
from bench.systems import Output, Request, Stages, to_uint8
from evals.protocol import Score, protocol_string
from magic141.errors import WeightsMissing
from magic141.stages import DENOISE, TEXT_ENCODE, VAE_DECODE

Script = Literal[
    "ok", "oom", "timeout", "unsupported", "weights-missing", "invalid", "crashed", "killed", "exit"
]
METRICS = ("brightness", "noise")


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
                time.sleep(self.latency)
        with stages(VAE_DECODE):
            self._script(VAE_DECODE)
            frames = np.stack([self._frames(request) for request in requests])
        if self.outcome == "invalid":
            frames[:] = np.nan
        del scratch
        return Output(to_uint8(frames))

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


@dataclass(frozen=True)
class Scores:
    aggregate: dict[str, Score]
    per_sample: pd.DataFrame


def score(
    *,
    frames: np.ndarray,
    scenes: Sequence[Any],
    first_frames: np.ndarray | None,
    prompts: Sequence[str],
    metrics: Sequence[str],
) -> Scores:
    """Mean brightness in [0, 1], and noise: the standard deviation of a clip's pixels. Normal intervals."""
    flat = frames.reshape(len(frames), -1) / 255
    columns = {"brightness": flat.mean(1), "noise": flat.std(1)}
    return Scores(
        {name: _mean(name, columns[name]) for name in metrics},
        pd.DataFrame({name: columns[name] for name in metrics}),
    )


def _mean(name: str, values: np.ndarray) -> Score:
    half = 1.96 * values.std() / len(values) ** 0.5
    mean = float(values.mean())
    return Score(
        value=mean,
        low=mean - half,
        high=mean + half,
        n=len(values),
        protocol=protocol_string(name, n=len(values), input="arrays"),
        better="higher" if name == "brightness" else "lower",
    )
