"""What a cell's record says of a system beyond its times: bytes, flags, the pace of windows, its own prompts."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from bench import worker
from bench.baselines.fake import Fake
from bench.baselines.reference import Truth
from bench.isolation import Announcer
from bench.jobs import RECORD, Job
from bench.records import MASKED, WINDOW, Record, read_samples
from bench.suite import Suite, parse
from bench.systems import Facts, Output, Request, Stages

PLAIN: dict[str, Any] = {
    "name": "s",
    "systems": {"fake": {"adapter": "bench.baselines.fake:Fake"}},
    "prompts": {"texts": ["a", "b", "c"]},
    "scorer": "bench.baselines.fake:SCORER",
    "metrics": ["noise"],
    "warmup": 0,
    "repeats": 2,
}


pytestmark = pytest.mark.usefixtures("quiet_machine")


def answer(suite: Suite, work: Path) -> Record:
    (cell,) = suite.cells()
    job = Job(cell, suite.asked_of(cell.system), "f", 1, "command", work)
    worker.run_cell(job, Announcer(Mock(), Mock()))
    return Record.model_validate_json((work / RECORD).read_bytes())


def test_a_plain_system_says_nothing_of_itself(tmp_path: Path) -> None:
    record = answer(parse(PLAIN, "s"), tmp_path)
    assert (record.outcome, record.parameter_bytes, record.flags, record.windows) == ("ok", None, (), None)


def test_bytes_flags_and_windows_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Fake.generate

    def in_windows(self: Fake, requests: Sequence[Request], stages: Stages) -> Output:
        for _ in range(3):
            with stages(WINDOW):
                output = made(self, requests, stages)
        return Output(output.frames, None, (0, 2, 4))

    monkeypatch.setattr(Fake, "generate", in_windows)
    monkeypatch.setattr(Fake, "facts", lambda self: Facts(123, (MASKED,)), raising=False)
    record = answer(parse(PLAIN, "s"), tmp_path)
    assert record.outcome == "ok", record.message
    assert (record.parameter_bytes, record.flags) == (123, (MASKED,))
    assert record.windows is not None
    assert record.windows.later is not None
    assert (record.windows.first_frame.n, record.windows.later.n) == (2, 4)


def test_a_system_is_asked_its_own_prompts(tmp_path: Path) -> None:
    own = PLAIN["systems"]["fake"] | {"prompts": {"texts": ["d"]}, "metrics": ["brightness"], "repeats": 1}
    record = answer(parse(PLAIN | {"systems": {"fake": own}}, "s"), tmp_path)
    assert record.prompts is not None
    assert (record.prompts.count, list(record.scores)) == (1, ["brightness"])
    assert record.stages["end to end"].n == 1
    assert [clip.prompt for clip in record.clips] == ["d", "d"]  # the first, and the worst


def test_clips_that_the_scorer_cannot_read_end_after_the_first(tmp_path: Path) -> None:
    asked = PLAIN | {"prompts": {"split": "test", "count": 3}, "metrics": ["flickering"]}
    record = answer(parse({key: asked[key] for key in asked.keys() - {"scorer"}}, "s"), tmp_path)
    assert (record.outcome, record.stage_reached) == ("unsupported", "first")
    assert "lab scores read frames of 64 x 64 pixels, and these are 16 x 16" in record.message


def test_a_pace_that_the_scorer_does_not_expect_is_unsupported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: Truth) -> None:  # a pace that is known only now
        monkeypatch.setattr(Truth, "fps", 8)

    monkeypatch.setattr(Truth, "load", load)
    truth = {"truth": {"adapter": "bench.baselines.reference:Truth"}}
    asked = PLAIN | {"systems": truth, "prompts": {"split": "test", "count": 3}, "metrics": ["motion-ratio"]}
    record = answer(parse({key: asked[key] for key in asked.keys() - {"scorer"}}, "s"), tmp_path)
    assert record.outcome == "unsupported"
    assert "at 16 frames a second, and these clips play at 8" in record.message


BUFFER = np.zeros((1, 5, 16, 16, 3), np.uint8)


def in_one_buffer(self: Fake, requests: Sequence[Request], stages: Stages) -> Output:
    for request in requests:
        BUFFER[0] = np.random.default_rng(request.seed).integers(0, 256, BUFFER.shape[1:])
    return Output(BUFFER)


def test_a_buffer_that_a_system_fills_anew_is_scored_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fake, "generate", in_one_buffer)
    record = answer(parse(PLAIN | {"quality_batch": 1, "metrics": ["brightness"]}, "s"), tmp_path)
    assert record.outcome == "ok", record.message
    assert len({row["brightness"] for row in read_samples(tmp_path, record)}) == 3


@pytest.mark.parametrize(
    ("made", "outcome", "said"),
    [
        (None, "invalid", "generate returned NoneType: return Output(frames)"),
        (BUFFER, "invalid", "generate returned ndarray"),
        (Output([[1]]), "invalid", "generate returned list"),  # type: ignore[arg-type]
        (Output(BUFFER[:, :, :15]), "invalid", "frames are 16x15: sides must be even"),
        (Output(BUFFER + 1, BUFFER[:, 0, :8]), "invalid", "first_frames are uint8 (1, 8, 16, 3), not uint8"),
        (Output(BUFFER), "invalid", "one flat colour"),
    ],
)
def test_what_is_no_video_is_invalid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Any, outcome: str, said: str
) -> None:
    BUFFER[:] = 0
    monkeypatch.setattr(Fake, "generate", lambda self, requests, stages: made)
    record = answer(parse(PLAIN, "s"), tmp_path)
    assert record.outcome == outcome
    assert said in record.message


@pytest.mark.parametrize(("name", "stage"), [("end to end", "first"), ("file encode", "first"), (3, "first")])
def test_stages_of_the_bench_are_not_for_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any, stage: str
) -> None:
    made = Fake.generate

    def marking(self: Fake, requests: Sequence[Request], stages: Stages) -> Output:
        with stages(name):
            return made(self, requests, stages)

    monkeypatch.setattr(Fake, "generate", marking)
    record = answer(parse(PLAIN, "s"), tmp_path)
    assert record.outcome == "invalid"
    assert f"stage {name!r} is marked by the bench itself" in record.message


def test_windows_that_are_none_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, calls = Fake.generate, itertools.count()

    def sometimes(self: Fake, requests: Sequence[Request], stages: Stages) -> Output:
        with stages(WINDOW if next(calls) % 2 else "another"):
            return made(self, requests, stages)

    monkeypatch.setattr(Fake, "generate", sometimes)
    record = answer(parse(PLAIN, "s"), tmp_path)
    assert record.outcome == "invalid"
    assert "0 to 1 stages 'window' in a generation" in record.message


@pytest.mark.parametrize(
    ("text", "kept"),
    [("x" * 10_000, "RuntimeError: xxx"), ("half \ud800 a letter", "RuntimeError: half ? a letter")],
)
def test_a_message_that_no_record_could_hold_is_kept_as_far_as_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, kept: str
) -> None:
    def fail(self: Fake) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(Fake, "load", fail)
    record = answer(parse(PLAIN, "s"), tmp_path)
    assert record.outcome == "crashed"
    assert record.message.startswith(kept)
    assert len(record.message) < 2100


def test_facts_that_are_none_cost_the_cell_and_not_its_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fake, "facts", lambda self: Facts(0), raising=False)
    record = answer(parse(PLAIN, "s"), tmp_path)
    assert record.outcome == "invalid"
    assert "parameter_bytes" in record.message


def test_every_timed_generation_has_prompts_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, asked = Fake.generate, []

    def remembering(self: Fake, requests: Sequence[Request], stages: Stages) -> Output:
        asked.append(tuple(request.prompt for request in requests))
        return made(self, requests, stages)

    monkeypatch.setattr(Fake, "generate", remembering)
    texts = [f"prompt {n}" for n in range(9)]
    record = answer(parse(PLAIN | {"prompts": {"texts": texts}, "warmup": 1}, "s"), tmp_path)
    assert record.outcome == "ok", record.message
    timed = len(record.stages["end to end"].samples)
    first, warm, *samples = asked[: 2 + timed]
    assert len({first, warm, *samples}) == 2 + timed


def test_threads_bind_a_torch_that_comes_with_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    before = torch.get_num_threads()
    monkeypatch.setattr(Fake, "load", lambda self: torch.set_num_threads(2))
    try:
        answer(parse(PLAIN, "s"), tmp_path)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
