"""The contract of a system, tested on an adapter: what `python -m bench check` runs, for whoever wrote one."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from bench import measure, systems
from bench.hardware import ROOT
from bench.records import Knob
from bench.scorers import LAB, made
from bench.systems import Output, Request, System
from magic141.data.world import World

HEAVY = ("torch", "diffusers", "transformers", "jax", "tensorflow")
LEVELS = 2.0
"""Grey levels that a clip may change by, on average, when it has company: kernels round differently by batch."""


@dataclass(frozen=True)
class Finding:
    """One line of the contract: what was tested, whether it holds, and what was seen."""

    name: str
    passed: bool
    seen: str


class Broken(Exception):
    """A line of the contract does not hold; the message is what was seen."""


def check(adapter: str, knobs: Mapping[str, Knob]) -> Iterator[Finding]:
    """One finding a line, in order; ends early where nothing after it can be tested.

    Generates seven clips of two prompts. Whatever an adapter raises is a finding.
    """
    contract = Contract(adapter, knobs)
    for name, test, needed in contract.lines():
        try:
            yield Finding(name, True, test())
        except (Exception, SystemExit) as error:  # an adapter may raise anything
            seen = str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}"
            yield Finding(name, False, seen)
            if needed:
                return


Line = tuple[str, Callable[[], str], bool]


class Contract:
    """The tests, which build on each other: each returns what it saw, or raises."""

    def __init__(self, adapter: str, knobs: Mapping[str, Knob]) -> None:
        self._adapter, self._knobs = adapter, knobs
        self._system: System
        self._pair: Output
        scenes = World().scenes("test", 0, 2)
        self._requests = [Request(n, scene.caption(), 100 + n, scene) for n, scene in enumerate(scenes)]

    def lines(self) -> list[Line]:
        """Name, test, and whether what follows needs it to hold."""
        return [
            ("is a dataclass of knobs", self.knobs, True),
            ("has imports and fps", self.members, True),
            ("is light to import", self.light, False),
            ("names its weights", self.weights, False),
            ("guesses its seconds", self.seconds, False),
            ("loads", self.load, True),
            ("generates two clips", self.generate, True),
            ("marks its stages", self.stages, False),
            ("repeats itself", self.repeats, False),
            ("follows the seed", self.seed, False),
            ("follows the prompt", self.prompt, False),
            ("does not mind its batch", self.batch, False),
            ("finds its scorer", self.scorer, False),
        ]

    def knobs(self) -> str:
        self._system = systems.make(self._adapter, self._knobs)
        found = systems.knobs_of(self._system)
        for name in ("batch_size", "num_frames"):
            systems.count(self._adapter, found, name, 1)
        return ", ".join(f"{name}={value}" for name, value in found.items()) or "none"

    def members(self) -> str:
        systems.check_members(self._adapter, self._system)
        imports, fps = self._system.imports, self._system.fps
        for name in imports:
            try:
                importlib.import_module(name)
            except (Exception, SystemExit) as error:
                raise Broken(
                    f"imports names {name!r}, which cannot be imported ({error}): install or drop it"
                ) from error
        return f"{fps} fps, imports {', '.join(imports) or 'nothing'}"

    def light(self) -> str:
        """Plans are printed, and arguments refused, before anything heavy is imported."""
        code = "import sys, importlib; importlib.import_module(sys.argv[1]); print(*sys.modules)"
        paths = repr([path for path in sys.path if path])
        module = self._adapter.partition(":")[0]
        words = [sys.executable, "-c", f"import sys; sys.path[:0] = {paths}\n{code}", module]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
        if heavy := sorted(set(HEAVY) & set(done.stdout.split())):
            raise Broken(f"importing {module} imports {', '.join(heavy)}: move that into `load`")
        return "yes"

    def weights(self) -> str:
        found = self._system.weights()
        if found is None:
            return "has none"
        if not re.fullmatch(r"[0-9a-f]{64}", str(found)):
            raise Broken(
                f"{found!r} is no sha256 (64 hex digits), so cells of other weights could be taken for these"
            )
        if systems.make(self._adapter, self._knobs).weights() != found:
            raise Broken("another instance names other weights")
        return found[:12]

    def seconds(self) -> str:
        return f"{systems.seconds_per_clip(self._adapter, self._system):.3g} s a clip"

    def load(self) -> str:
        self._system.load()
        return "yes"

    def generate(self) -> str:
        self._stopwatch = measure.Stopwatch(measure.synchronise())
        self._pair = self._make(self._requests, self._stopwatch)
        return f"uint8 {self._pair.frames.shape}"

    def stages(self) -> str:
        samples = self._stopwatch.samples
        if not samples:
            raise Broken(
                "none was marked: wrap the work in `with stages(...)`, or a report cannot say where time goes"
            )
        own = [name for name in samples if name not in systems.STAGES]
        text = ", ".join(f"{name} × {len(values)}" for name, values in samples.items())
        return f"{text} (not the bench's names: {', '.join(own)})" if own else text

    def repeats(self) -> str:
        if not np.array_equal(self._make(self._requests).frames, self._pair.frames):
            raise Broken(
                "equal requests gave different clips: draw every number from a generator seeded by the request"
            )
        return "equal requests, equal bytes"

    def seed(self) -> str:
        return self._differs(replace(self._requests[0], seed=7), "another seed gave the same clip")

    def prompt(self) -> str:
        second = self._requests[1]
        other = replace(self._requests[0], prompt=second.prompt, scene=second.scene)
        return self._differs(other, "another prompt gave the same clip")

    def batch(self) -> str:
        """Quality is scored on batches: a clip must be what it would be alone."""
        alone = self._make(self._requests[:1]).frames[0].astype(float)
        levels = float(np.abs(alone - self._pair.frames[0]).mean())
        if levels > LEVELS:
            raise Broken(
                f"the first clip changes by {levels:.1f} grey levels on average when a second is made beside it: give "
                "each clip a generator of its own"
            )
        return "equal bytes" if levels == 0 else f"{levels:.2f} grey levels on average"

    def scorer(self) -> str:
        """No fault of a system: a suite may name another scorer. But its author wants to know before a night's run."""
        why = LAB.objection(made(self._pair, self._requests, self._system.fps))
        return (
            f"not the lab's, which a suite has by default: {why}"
            if why
            else "the lab's, as a suite has by default"
        )

    def _differs(self, request: Request, complaint: str) -> str:
        if np.array_equal(self._make([request]).frames[0], self._pair.frames[0]):
            raise Broken(complaint)
        return "yes"

    def _make(self, requests: list[Request], stopwatch: measure.Stopwatch | None = None) -> Output:
        output = self._system.generate(requests, systems.Marks(stopwatch or measure.Stopwatch()))
        systems.check_output(output, len(requests))
        # A copy: it may be a buffer that is filled anew the next time.
        return replace(output, frames=output.frames.copy())
