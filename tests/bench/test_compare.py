from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.compare import compare, pair
from bench.errors import RunError
from bench.records import Prompts, Record, Score, write_samples

Make = Callable[..., Record]


def cell(make: Make, run: Path, values: list[float | None], protocol: str = "p", **changes: Any) -> Record:
    run.mkdir(exist_ok=True)
    rows = [{"index": i, "prompt": "x", "seed": i, "m": value} for i, value in enumerate(values)]
    numbers = [value for value in values if value is not None]
    score = Score(value=sum(numbers) / len(numbers), n=len(numbers), protocol=protocol, better="higher")
    return make(scores={"m": score}, samples=write_samples(run, "c0", rows), **changes)


def verdict(make: Make, tmp_path: Path, a: list[float | None], b: list[float | None], **second: Any) -> Any:
    folders = tmp_path / "a", tmp_path / "b"
    records = cell(make, folders[0], a), cell(make, folders[1], b, **second)
    found = list(compare({"c0": records[0]}, {"c0": records[1]}, folders, {"c0": "x"}))
    return next(one for one in found if one.what == "m")


def test_pairs_see_what_means_cannot(make: Make, tmp_path: Path) -> None:
    noise = list(np.random.default_rng(0).normal(size=64))
    found = verdict(make, tmp_path, noise, [value + 0.05 for value in noise])
    assert found.verdict == "better"
    assert found.n == "64"
    assert verdict(make, tmp_path, noise, [value - 0.05 for value in noise]).verdict == "worse"
    assert verdict(make, tmp_path, noise, noise).verdict == "no difference seen"


def test_only_pairs_with_two_numbers_count(make: Make, tmp_path: Path) -> None:
    assert verdict(make, tmp_path, [1.0, None, 2.0, 3.0], [1.0, 5.0, None, 3.0]).n == "2"


def test_protocols_must_agree(make: Make, tmp_path: Path) -> None:
    assert (
        verdict(make, tmp_path, [1.0, 2.0], [3.0, 4.0], protocol="q").verdict == "refused: protocols differ"
    )


def test_outcomes_are_compared_first(make: Make, tmp_path: Path) -> None:
    good, bad = cell(make, tmp_path, [1.0]), make(outcome="oom", message="m")
    (found,) = compare({"c0": good}, {"c0": bad}, (tmp_path, tmp_path), {"c0": "x"})
    assert (found.what, found.first, found.second, found.verdict) == ("outcome", "ok", "oom", "differs")


def test_cells_pair_by_id_alone(make: Make, tmp_path: Path) -> None:
    assert list(compare({"c0": make("c0")}, {"c1": make("c1")}, (tmp_path, tmp_path), {"c0": "x"})) == []


def test_two_cells_of_the_same_prompts_pair_whatever_their_knobs(make: Make, tmp_path: Path) -> None:
    folders = tmp_path / "a", tmp_path / "b"
    records = (
        cell(make, folders[0], [1.0, 2.0, 3.0], cell="c0", knobs={"overlap": 1, "seconds": 60}),
        cell(make, folders[1], [2.0, 3.1, 4.0], cell="c1", knobs={"overlap": 3, "seconds": 60}),
    )
    score = next(one for one in pair(*records, folders) if one.what == "m")
    assert (score.verdict, score.n) == ("better", "3")
    assert score.label.endswith(": overlap 1 → 3")
    other = records[1].model_copy(update={"seeds": (1,)})
    with pytest.raises(RunError, match="cannot be paired: their seeds are"):
        pair(records[0], other, folders)


def test_lists_of_one_name_and_other_texts_do_not_pair(make: Make, tmp_path: Path) -> None:
    asked = [Prompts(source="file prompts.txt", count=1, sha256=letter * 64) for letter in "ab"]
    first = cell(make, tmp_path / "a", [1.0], cell="c0", prompts=asked[0])
    second = cell(make, tmp_path / "b", [1.0], cell="c1", prompts=asked[1])
    with pytest.raises(RunError, match="cannot be paired: their prompts are"):
        pair(first, second, (tmp_path, tmp_path))
