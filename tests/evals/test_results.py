import csv
import io
from dataclasses import replace

import pytest

from evals.compare import compare
from evals.protocol import ProtocolMismatch, Score
from evals.results import ClipResult, Flag, ScoreFile, read, table, write
from magic141.errors import InputError


def score(value=0.5, protocol="sharpness; input=native", better="higher"):
    return Score(
        value=value,
        low=None,
        high=None,
        n=2,
        protocol=protocol,
        better=better,
        target=1.0 if better == "target" else None,
    )


def clip(name, value, prompt=None, seed=None):
    return ClipResult(name=name, outcome="ok", prompt=prompt, seed=seed, values={"sharpness": value})


def file(values, shift=0.0, **options):
    clips = tuple(clip(f"{i}.mp4", value + shift) for i, value in enumerate(values))
    return ScoreFile(clips=clips, aggregate={"sharpness": score(**options)})


def test_a_file_survives_a_round_trip(tmp_path):
    failed = ClipResult(name="b.mp4", outcome="failed", reason="zero bytes")
    flagged = replace(clip("a.mp4", 0.25), flags=(Flag(name="dark", evidence="luma 3 < 20"),))
    scores = ScoreFile(
        clips=(flagged, failed), aggregate={"sharpness": score()}, omitted={"fvd": "no reference"}
    )
    write(scores, tmp_path / "s.json", tmp_path / "s.csv")
    assert read(tmp_path / "s.json") == scores
    assert scores.failed == [failed]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "s.csv").read_text())))
    assert [row["outcome"] for row in rows] == ["ok", "failed"]
    assert (rows[0]["sharpness"], rows[0]["flags"], rows[1]["sharpness"]) == ("0.25", "dark", "")
    assert table(scores).count("\n") == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.csv", "s.json"]


@pytest.mark.parametrize("text", ["", "{}", '{"clips": [], "aggregate": {}, "schema_version": 9}'])
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(InputError, match="no score file"):
        read(path)


def test_an_unwritable_place_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        write(file([1.0]), tmp_path / "none" / "s.json")


VALUES = [0.1, 0.9, 0.4, 0.7, 0.2, 0.8]


@pytest.mark.parametrize(
    ("shift", "better", "verdict"),
    [
        (0.05, "higher", "better"),
        (0.05, "lower", "worse"),
        (-0.05, "higher", "worse"),
        (0.05, "target", "differs"),
        (0.05, "descriptive", "differs"),
        (0.0, "higher", "no difference shown"),
    ],
)
def test_pairing_sees_what_the_spread_of_clips_hides(shift, better, verdict):
    (row,) = compare(file(VALUES, better=better), file(VALUES, shift, better=better))
    assert row.verdict == verdict
    assert row.difference.value == pytest.approx(shift)
    assert row.difference.n == len(VALUES)


def test_clips_pair_by_prompt_and_seed_whatever_their_names():
    first = ScoreFile(
        clips=(clip("a", 1.0, "ring", "0"), clip("b", 2.0, "ring", "1")), aggregate={"sharpness": score()}
    )
    second = ScoreFile(
        clips=(clip("y", 2.5, "ring", "1"), clip("x", 1.5, "ring", "0")), aggregate={"sharpness": score()}
    )
    (row,) = compare(first, second)
    assert (row.difference.value, row.verdict) == (0.5, "better")


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ProtocolMismatch, match="native"):
        list(compare(file(VALUES), file(VALUES, protocol="sharpness; input=64x64")))
    with pytest.raises(InputError, match="no metric in common"):
        list(compare(file(VALUES), ScoreFile(clips=(), aggregate={})))
    other = ScoreFile(clips=(clip("z.mp4", 1.0),), aggregate={"sharpness": score()})
    with pytest.raises(InputError, match="nothing can be paired"):
        list(compare(file(VALUES), other))
    twice = ScoreFile(
        clips=(clip("a", 1.0, "ring"), clip("b", 2.0, "ring")), aggregate={"sharpness": score()}
    )
    with pytest.raises(InputError, match="same prompt and seed"):
        list(compare(twice, twice))


def test_one_pair_tests_nothing():
    (row,) = compare(file([0.1]), file([0.2]))
    assert (row.verdict, row.difference) == ("not testable", None)
