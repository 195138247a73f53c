import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from bench import folders, runner, shards, tables
from bench.command import Command
from bench.errors import RunError, SuiteError
from bench.records import Manifest, Record, RecordError, Store, latest
from bench.shards import _check_sources
from bench.suite import Suite, read
from tests.bench.test_cli import bench

SuiteFile = Callable[..., Path]
STEADY = "steady: {adapter: 'bench.baselines.fake:Fake', axes: {num_inference_steps: [1, 2, 4, 8, 16]}}"


def drive(suite: Path, out: Path, **options: str) -> Path:
    command = Command.make(suite, None, out, (), report=False, **options)  # type: ignore[arg-type]
    command.execute(Console(file=open(os.devnull, "w")), "python -m bench run …")  # noqa: SIM115, PTH123
    return folders.locate("latest", out)


def answers(run: Path) -> dict[str, object]:
    """What must not depend on where a cell ran."""
    return {
        cell: (record.outcome, record.message, record.scores, record.samples, record.clips)
        for cell, record in latest(Store(run).records()).items()
    }


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 9), steps=st.integers(1, 12))
def test_shards_are_a_partition_of_equal_parts(count: int, steps: int) -> None:
    suite = Suite.model_validate(
        {
            "name": "s",
            "systems": {
                "a": {
                    "adapter": "bench.baselines.fake:Fake",
                    "axes": {"num_inference_steps": list(range(1, steps + 1))},
                }
            },
            "prompts": {"texts": ["x"]},
            "metrics": ["noise"],
            "scorer": "bench.baselines.fake:SCORER",
        }
    )
    cells = suite.cells()
    parts = []
    for number in range(1, count + 1):
        if number > len(cells):
            with pytest.raises(SuiteError, match="has no cell"):
                shards.split(cells, f"{number}/{count}")
        else:
            parts.append(shards.split(cells, f"{number}/{count}"))
    ids = [cell.id for part in parts for cell in part]
    assert sorted(ids) == sorted(cell.id for cell in cells)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    if steps % (2 * count) == 0:  # costs that grow along an axis are dealt out equally
        assert len({sum(int(cell.knobs["num_inference_steps"] or 0) for cell in part) for part in parts}) == 1


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_a_bad_shard_is_refused(tmp_path: Path, suite_file: SuiteFile, shard: str) -> None:
    code, said = bench("run", suite_file(STEADY), "--out", tmp_path / "out", f"--shard={shard}")
    assert code == 2
    assert "give i/n with 1 <= i <= n" in said


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, Path]:
    """A suite file, a whole run of it, and its two shards."""
    folder = tmp_path_factory.mktemp("shards")
    suite = folder / "suite.yaml"
    suite.write_text(
        "name: suite\nprompts: {texts: [a red circle, a blue square]}\nclips: 1\nrepeats: 3\nextra_repeats: 0\n"
        f"scorer: bench.baselines.fake:SCORER\nmetrics: [brightness, noise]\nsystems:\n  {STEADY}\n"
    )
    whole = drive(suite, folder / "whole")
    return suite, whole, *(drive(suite, folder / f"shard{n}", shard=f"{n}/2") for n in (1, 2))


def test_shards_merged_are_the_whole(runs: tuple[Path, ...], tmp_path: Path) -> None:
    _, whole, one, two = runs
    for place, order in enumerate(itertools.permutations((one, two))):
        merged = shards.merge(order, tmp_path / str(place), "python -m bench merge …")
        assert not merged.missing
        assert not merged.twice
        assert answers(merged.run) == answers(whole)
        assert list(latest(Store(merged.run).records())) == list(answers(whole))  # in the order of the suite
        for record in merged.records:
            for path in (record.samples.path if record.samples else "", *(c.path for c in record.clips)):
                assert (merged.run / path).read_bytes() == (whole / path).read_bytes()
        manifest = merged.manifest
        assert manifest == Manifest.read(merged.run)
        assert [planned.cell for planned in manifest.plan] == list(answers(whole))
        assert manifest.shard is None
        assert manifest.finished is not None
        assert manifest.measured is not None
        assert manifest.first_clip is not None
        assert (merged.run / manifest.first_clip.path).exists()


def test_a_shard_plans_its_own_cells_and_resumes_as_a_shard(runs: tuple[Path, ...]) -> None:
    suite, _, one, _ = runs
    manifest = Manifest.read(one)
    assert (manifest.shard, len(manifest.plan), len(manifest.asked)) == ("1/2", 3, 5)
    again = Command.make(None, str(one), one.parent, (), report=False)
    assert {cell.id for cell in again.cells} == {planned.cell for planned in manifest.plan}
    assert (again.shard, len(again.asked)) == ("1/2", 5)
    assert again.done == {cell.id for cell in shards.split(read(suite).cells(), "1/2")}


def test_an_incomplete_union_says_what_is_missing(runs: tuple[Path, ...], tmp_path: Path) -> None:
    _, whole, _, two = runs
    code, said = bench("merge", two, "--out", tmp_path / "merged")
    assert code == 1
    assert "not complete: 3 cells are in no run" in said
    absent = [cell for cell in answers(whole) if cell not in answers(two)]
    assert all(cell[: tables.SHOWN_ID] in said for cell in absent)
    assert Manifest.read(tmp_path / "merged").finished is None
    assert "Partial run." in (tmp_path / "merged" / runner.REPORT).read_text()


def test_of_equal_cells_the_latest_is_kept(runs: tuple[Path, ...], tmp_path: Path) -> None:
    _, whole, one, two = runs
    found = []
    for place, order in enumerate(itertools.permutations((whole, one, two))):
        merged = shards.merge(order, tmp_path / str(place), "…")
        assert sorted(merged.twice) == sorted(answers(whole))
        found.append([record.model_dump_json() for record in merged.records])
    assert all(one_order == found[0] for one_order in found)
    started = {cell: record.started for cell, record in latest(Store(whole).records()).items()}
    kept = [Record.model_validate_json(line) for line in found[0]]
    assert all(record.started > started[record.cell] for record in kept)


def rewrite(run: Path, copy: Path, **changes: object) -> Path:
    """A copy of a run whose manifest says something else."""
    shutil.copytree(run, copy)
    Manifest.read(copy).model_copy(update=changes).write(copy)
    return copy


def test_what_does_not_belong_together_is_refused(runs: tuple[Path, ...], tmp_path: Path) -> None:
    _, _, one, two = runs
    question = {**Manifest.read(two).question, "repeats": 4}
    other_suite = rewrite(two, tmp_path / "suite", question=question)
    other_machine = rewrite(two, tmp_path / "machine", fingerprint="another")
    with pytest.raises(RunError, match=r"different suites \(repeats differ\)"):
        shards.merge([one, other_suite], tmp_path / "out", "…")
    with pytest.raises(RunError, match="different environments"):
        shards.merge([one, other_machine], tmp_path / "out", "…")
    assert not (tmp_path / "out").exists()
    merged = shards.merge([one, other_suite, other_machine], tmp_path / "out", "…", mixed=True)
    assert len(merged.records) == 5
    with pytest.raises(RunError, match="exists"):
        shards.merge([one, two], tmp_path / "out", "…")


@pytest.mark.parametrize("kind", ["samples", "clips"])
def test_a_file_that_is_not_the_recorded_one_is_refused(
    runs: tuple[Path, ...], tmp_path: Path, kind: str
) -> None:
    _, _, one, two = runs
    bad = rewrite(two, tmp_path / "bad")
    path = next(path for path in (bad / kind).rglob("*") if path.is_file())
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    with pytest.raises((RecordError, RunError), match="is not what its record names"):
        shards.merge([one, bad], tmp_path / "out", "…")
    path.unlink()
    with pytest.raises((RecordError, RunError), match="No such file"):
        shards.merge([one, bad], tmp_path / "out", "…")
    assert not list(tmp_path.glob("*out*"))  # nothing half-made, under whatever name


def test_other_code_behind_a_system_is_not_merged(tmp_path: Path, make: Callable[..., Record]) -> None:
    run = tmp_path / "a"
    made = [make("c0", adapter="acme:A", sources_sha256=one * 64) for one in "ab"]
    _check_sources({"c0": [(made[0], run)], "c1": [(made[0], run)]})
    with pytest.raises(RunError, match="the code behind .* is not the same"):
        _check_sources({"c0": [(made[0], run)], "c1": [(made[1], tmp_path / "b")]})
