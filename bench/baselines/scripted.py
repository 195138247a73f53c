"""A gate's workload and system without torch: the tree says what they cost, in its module `magic141.scripted`.

SECONDS = 0.002          a call; SIGMA: sd of its log within a worker; RESTART_SIGMA: between workers
COUNTERS = {"flops": 1000, …}
OUTPUT = b"…"
NOISE = 0.1              amplitude of the noise in its frames
def FAULT(): …           what a call does besides: end the process, hang, raise
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np


@dataclass
class Scripted:
    passes: int = 1

    imports: ClassVar[tuple[str, ...]] = ()

    def load(self) -> None:
        self._script = script()
        self._random = random.Random()
        self._now = 0.0
        restart_sigma = getattr(self._script, "RESTART_SIGMA", 0.0)
        self._level = self._script.SECONDS * self._random.lognormvariate(0, restart_sigma)

    def run(self) -> Any:
        if fault := getattr(self._script, "FAULT", None):
            fault()
        jitter = self._random.lognormvariate(0, getattr(self._script, "SIGMA", 0.0))
        self._now += self._level * self.passes * jitter
        return self._script.OUTPUT

    def clock(self) -> float:
        """Scripted seconds: a machine under load changes no verdict of a test."""
        return self._now

    def counters(self) -> dict[str, int]:
        return dict(self._script.COUNTERS)


@dataclass
class ScriptedClips:
    """Grey clips with the tree's noise, see `bench.systems`."""

    imports: ClassVar[tuple[str, ...]] = ()
    fps: ClassVar[int] = 16

    def weights(self) -> str | None:
        return None

    def seconds_per_clip(self) -> float:
        return 0.0

    def load(self) -> None: ...

    def generate(self, requests: Sequence[Any], stages: Any) -> Any:
        from bench.systems import Output, to_uint8

        clips = [np.random.default_rng(request.seed).random((5, 16, 16, 3)) for request in requests]
        return Output(to_uint8(0.5 + script().NOISE * (np.stack(clips) - 0.5)))


def script() -> Any:
    return importlib.import_module("magic141.scripted")
