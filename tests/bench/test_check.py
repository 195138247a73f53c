"""The contract, on a system that keeps it and on one broken system for each of its lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from bench.baselines.fake import Fake
from bench.check import check
from bench.systems import Output, Request, Stages
from tests.bench.test_cli import bench

HERE = "tests.bench.test_check"


class Plain:
    """No dataclass."""


@dataclass
class NoFps(Fake):
    fps: ClassVar[Any] = 23.976


@dataclass
class BadImports(Fake):
    imports: ClassVar[Any] = "torch"


@dataclass
class BadWeights(Fake):
    def weights(self) -> str | None:
        return "version 2"


@dataclass
class FickleWeights(Fake):
    def weights(self) -> str | None:
        return f"{id(self):064x}"


@dataclass
class BadGuess(Fake):
    def seconds_per_clip(self) -> float:
        return float("nan")


@dataclass
class Unloadable(Fake):
    def load(self) -> None:
        raise RuntimeError("no such file")


@dataclass
class Floats(Fake):
    def generate(self, requests: Sequence[Request], stages: Stages) -> Output:
        return Output(super().generate(requests, stages).frames / 255)


@dataclass
class OneClip(Fake):
    def generate(self, requests: Sequence[Request], stages: Stages) -> Output:
        return Output(super().generate(requests, stages).frames[:1])


@dataclass
class OddSize(Fake):
    def generate(self, requests: Sequence[Request], stages: Stages) -> Output:
        return Output(super().generate(requests, stages).frames[:, :, 1:])


@dataclass
class OddFirsts(Fake):
    def generate(self, requests: Sequence[Request], stages: Stages) -> Output:
        frames = super().generate(requests, stages).frames
        return Output(frames, frames[:, :1])


@dataclass
class NoStages(Fake):
    def generate(self, requests: Sequence[Request], stages: Stages) -> Output:
        return Output(np.stack([(self._frames(request) * 255).astype(np.uint8) for request in requests]))


@dataclass
class Unseeded(Fake):
    def generate(self, requests: Sequence[Request], stages: Stages) -> Output:
        frames = super().generate(requests, stages).frames
        self._calls = getattr(self, "_calls", 0) + 1
        return Output(np.roll(frames, self._calls, axis=2))


@dataclass
class IgnoresTheSeed(Fake):
    def _frames(self, request: Request) -> np.ndarray:
        return super()._frames(Request(0, request.prompt, 0))


@dataclass
class IgnoresThePrompt(Fake):
    def _frames(self, request: Request) -> np.ndarray:
        return super()._frames(Request(0, "a cat", request.seed))


@dataclass
class MindsItsBatch(Fake):
    def generate(self, requests: Sequence[Request], stages: Stages) -> Output:
        return Output(np.roll(super().generate(requests, stages).frames, len(requests), axis=2))


@dataclass
class NoModule(Fake):
    imports: ClassVar[tuple[str, ...]] = ("nonexistent_module",)


@dataclass
class Exits(Fake):
    def generate(self, requests: Sequence[Request], stages: Stages) -> Output:
        raise SystemExit(3)


@dataclass
class Listed(Fake):
    sizes: tuple[int, ...] = (1, 2)


@dataclass
class AutoLength(Fake):
    num_frames: str = "auto"


@dataclass
class LabSized(Fake):
    fps: int = 16

    def _frames(self, request: Request) -> np.ndarray:
        return np.resize(super()._frames(request), (33, 64, 64, 3))


def failures(adapter: str) -> dict[str, str]:
    return {finding.name: finding.seen for finding in check(adapter, {}) if not finding.passed}


def test_a_good_system_keeps_the_contract() -> None:
    code, said = bench("check", "bench.baselines.fake:Fake", "--knob", "num_inference_steps=2")
    assert code == 0, said
    assert "denoise × 2" in said
    assert "NO" not in said


@pytest.mark.parametrize(
    ("adapter", "line", "said"),
    [
        ("Plain", "is a dataclass of knobs", "is no dataclass"),
        ("Nothing", "is a dataclass of knobs", "has no 'Nothing'"),
        ("NoFps", "has imports and fps", "23.976"),
        ("BadImports", "has imports and fps", "no names of modules"),
        ("BadWeights", "names its weights", "no sha256"),
        ("FickleWeights", "names its weights", "other weights"),
        ("BadGuess", "guesses its seconds", "nan"),
        ("Listed", "is a dataclass of knobs", "sizes=(1, 2) is no knob"),
        ("AutoLength", "is a dataclass of knobs", "num_frames='auto' must be 1 or more"),
        ("NoModule", "has imports and fps", "'nonexistent_module', which cannot be imported"),
        ("Exits", "generates two clips", "SystemExit: 3"),
        ("Unloadable", "loads", "RuntimeError: no such file"),
        ("Floats", "generates two clips", "not uint8"),
        ("OneClip", "generates two clips", "for 2 requests"),
        ("OddSize", "generates two clips", "must be even"),
        ("OddFirsts", "generates two clips", "first_frames"),
        ("NoStages", "marks its stages", "none was marked"),
        ("Unseeded", "repeats itself", "different clips"),
        ("IgnoresTheSeed", "follows the seed", "same clip"),
        ("IgnoresThePrompt", "follows the prompt", "same clip"),
        ("MindsItsBatch", "does not mind its batch", "generator of its own"),
    ],
)
def test_each_line_finds_its_break(
    monkeypatch: pytest.MonkeyPatch, adapter: str, line: str, said: str
) -> None:
    monkeypatch.setattr("bench.check.Contract.light", lambda self: "not asked here")
    found = failures(f"{HERE}:{adapter}")
    if adapter in ("Unseeded",):  # what is random also minds everything else
        found = {line: found[line]}
    assert list(found) == [line]
    assert said in found[line]


@pytest.mark.parametrize(
    ("adapter", "knobs", "said"),
    [
        ("LabSized", {}, "the lab's, as a suite has by default"),
        ("LabSized", {"fps": 8}, "not the lab's, which a suite has by default: lab scores compare motion"),
        ("Fake", {}, "not the lab's, which a suite has by default: lab scores read frames of 64 x 64 pixels"),
    ],
)
def test_who_can_score_it_is_said_and_is_no_fault(adapter: str, knobs: dict[str, Any], said: str) -> None:
    last = list(check(f"{HERE}:{adapter}", knobs))[-1]
    assert (last.name, last.passed) == ("finds its scorer", True)
    assert last.seen.startswith(said)


@pytest.mark.parametrize("heavy", [False, True])
def test_a_heavy_module_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heavy: bool) -> None:
    monkeypatch.setattr("bench.check.HEAVY", ("colorsys",))  # the real ones take many seconds
    name = f"theirs_{heavy}"
    source = "import colorsys\n" if heavy else ""
    (tmp_path / f"{name}.py").write_text(f"{source}from bench.baselines.fake import Fake\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = failures(f"{name}:Fake")
    assert list(found) == (["is light to import"] if heavy else [])
    assert not heavy or "move that into `load`" in found["is light to import"]


def test_a_broken_contract_is_exit_code_1() -> None:
    code, said = bench("check", f"{HERE}:Unloadable")
    assert code == 1
    assert "no such file" in said


@pytest.mark.parametrize(
    ("word", "reason"), [("steps", "give NAME=VALUE"), ("steps=[", "'[' is no YAML value")]
)
def test_bad_words_are_exit_code_2(word: str, reason: str) -> None:
    code, said = bench("check", "bench.baselines.fake:Fake", "--knob", word)
    assert code == 2
    assert reason in said
