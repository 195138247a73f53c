import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bench import tables
from bench.compare import Difference, compare, pair
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
    assert verdict(make, tmp_path, noise, noise).verdict == "no difference shown"


def test_only_pairs_with_two_numbers_count(make: Make, tmp_path: Path) -> None:
    assert verdict(make, tmp_path, [1.0, None, 2.0, 3.0], [1.0, 5.0, None, 3.0]).n == "2"


@pytest.mark.parametrize("change", [5.0, -5.0])
def test_one_pair_shows_nothing(make: Make, tmp_path: Path, change: float) -> None:
    found = verdict(make, tmp_path, [1.0], [1.0 + change])
    assert (found.interval, found.n, found.verdict) == (f"{change:+.3g}", "1", "not testable")


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


def test_of_two_systems_only_knobs_that_both_have_are_a_change(make: Make, tmp_path: Path) -> None:
    folders = tmp_path / "a", tmp_path / "b"
    ours = cell(make, folders[0], [1.0], cell="c0", system="ours", knobs={"model": "lab", "steps": 4})
    theirs = cell(make, folders[1], [2.0], cell="c1", system="theirs", knobs={"size": 64, "steps": 8})
    assert pair(ours, theirs, folders)[0].label == "ours → theirs: steps 4 → 8"
    later = theirs.model_copy(
        update={"system": "ours", "knobs": {"model": "lab", "steps": 4, "solver": "unipc"}}
    )
    assert pair(ours, later, folders)[0].label == "ours: solver None → unipc"


def test_a_cell_of_other_code_says_so(make: Make, tmp_path: Path) -> None:
    folders = tmp_path / "a", tmp_path / "b"
    one, two = (
        cell(make, folder, [1.0], sources_sha256=folder.name * 64, adapter="acme:A") for folder in folders
    )
    latency, _ = compare({"c0": one}, {"c0": two}, folders, {"c0": "x"})
    assert latency.verdict == "the system's code differs"


def printed(table: object) -> str:
    """What a terminal of 80 columns shows."""
    console = Console(file=StringIO(), width=80)
    console.print(table)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def unfolded(shown: str) -> list[str]:
    """The columns of a printed table below its title, what was folded joined again, without spaces."""
    lines = shown.splitlines()[1:]
    kept = "".join("x" if "".join(signs).strip() else " " for signs in zip(*lines, strict=True))
    places = [match.span() for match in re.finditer(r"x(?: ?x)*", kept)]
    return ["".join(line[start:end] for line in lines).replace(" ", "") for start, end in places]


def test_a_narrow_terminal_cuts_no_number_and_names_a_cell_once(make: Make) -> None:
    numbers = ("0.123456789", "12.3456789", "+12.2 [+12.1111, +12.3333]")
    lines = [
        Difference(
            "c0" * 8, "ours → theirs: guidance_scale 3.0 → 1.0", what, *numbers, n="2048", verdict="worse"
        )
        for what in ("accuracy-mean", "motion-ratio")
    ]
    shown = printed(tables.differences(lines))
    assert "…" not in shown
    assert shown.count("c0c0c0c0") == shown.count("theirs:") == 1
    assert all(any(number.replace(" ", "") in column for column in unfolded(shown)) for number in numbers)


def test_a_narrow_terminal_tells_two_step_counts_apart(make: Make) -> None:
    found = [
        make(f"c{steps}", knobs={"num_inference_steps": steps}, flags=("disturbed",)) for steps in (2, 4)
    ]
    shown = printed(tables.rows(found))
    assert "…" not in shown
    assert {"num_inference_steps=2", "num_inference_steps=4"} <= set(shown.split())


def test_a_name_in_brackets_is_a_name(make: Make) -> None:
    found = [make(f"c{n}", system=f"mine [v{n}]") for n in (2, 3)] + [make("c4", system="[/x]")]
    shown = printed(tables.rows(found))
    assert all(name in shown for name in ("mine [v2]", "mine [v3]", "[/x]"))


def test_a_record_that_does_not_know_its_code_accuses_nobody(make: Make, tmp_path: Path) -> None:
    folders = tmp_path / "a", tmp_path / "b"
    before = cell(make, folders[0], [1.0], sources_sha256=None, adapter="")
    after = cell(make, folders[1], [1.0], sources_sha256="b" * 64, adapter="acme:A")
    latency, _ = compare({"c0": before}, {"c0": after}, folders, {"c0": "x"})
    assert latency.verdict == "one process each"
    moved = after.model_copy(update={"fingerprint": "e" * 16})
    latency, _ = compare({"c0": before}, {"c0": moved}, folders, {"c0": "x"})
    assert latency.verdict == "environments differ"
