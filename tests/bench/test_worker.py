"""What a cell's record says of a system beyond its times: bytes, flags, the pace of windows, its own prompts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from bench import worker
from bench.baselines.fake import Fake
from bench.baselines.reference import Truth
from bench.isolation import Announcer
from bench.jobs import RECORD, Job
from bench.records import MASKED, WINDOW, Record
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
