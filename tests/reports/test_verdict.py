import re

import pytest

from bench.records import DISTURBED, MASKED, Contamination, Prompts, Timing
from reports.load import load
from reports.metrics import Point, metrics
from reports.rows import rows
from reports.verdict import verdict


def read(folder):
    """The verdict as plain sentences."""
    found = rows(load([folder]))
    main = next((metric for metric in metrics(found) if metric.systems), None)
    sentences = [re.sub("<[^>]+>", "", str(sentence)) for sentence in verdict(found, main)]
    return [
        sentence.replace("\u00a0", " ").replace("&nbsp;", " ").replace("\u2009", " ")
        for sentence in sentences
    ]


def cell(make, steps, value, spread, **fields):
    return make.record(steps=steps, scores={"fvd-world": make.score(value, spread)}, **fields)


def test_best_cheapest_and_speed(make, tmp_path):
    cells = [
        cell(make, 2, 3.0, 0.2),
        cell(make, 8, 1.1, 0.2),
        cell(make, 28, 1.0, 0.2),
        cell(make, None, 0.0, 0.1, system="truth", role="reference"),
    ]
    first, second, third = read(make.run(tmp_path / "run", cells))
    assert first == (
        "Best quality by fvd-world (lower is better): lab-teacher · 28 steps with 1.00 [0.80 – 1.20], n = 64; "
        "for scale, truth scores 0.00."
    )
    assert second == (
        "The cheapest setting whose 95 % interval reaches that score is lab-teacher · 8 steps with "
        "1.10 [0.90 – 1.30], n = 64, 3.0× faster [2.7 – 3.4]."
    )
    assert third.startswith("lab-teacher · 8 steps makes one second of video in 0.211 s")
    assert third.endswith("4.75× faster than it plays, warm, on 2 cores of AMD EPYC 7B13.")


def test_an_interval_that_stops_short_does_not_reach(make, tmp_path):
    cells = [cell(make, 2, 3.0, 0.2), cell(make, 8, 1.21, 0.2), cell(make, 28, 1.0, 0.2)]
    _, second, third = read(make.run(tmp_path / "run", cells))
    assert second.startswith("No faster setting has a 95 % interval that reaches it; the nearest is")
    assert "lab-teacher · 8 steps with 1.21" in second
    assert third.startswith("lab-teacher · 28 steps makes")


def test_latencies_that_cannot_be_told_apart_are_said_to_overlap(make, tmp_path):
    cells = [cell(make, 27, 1.1, 0.2), cell(make, 28, 1.0, 0.2)]
    _, second, _ = read(make.run(tmp_path / "run", cells))
    assert second.endswith("1.03× faster [0.92 – 1.17], though the intervals of the two latencies overlap.")


def test_the_fastest_may_be_the_best(make, tmp_path):
    _, second, _ = read(make.run(tmp_path / "run", [cell(make, 2, 1.0, 0.1), cell(make, 8, 2.0, 0.1)]))
    assert second == "No setting that was scored is faster."


def test_without_scores_only_cost_is_compared(make, tmp_path):
    cells = [make.record("fake", steps, scores={}) for steps in (4, 2)]
    first, second, third = read(make.run(tmp_path / "run", cells))
    assert first == "No cell carries a quality score, so only cost can be compared."
    assert second.startswith("fake · 2 steps is the fastest of 2 settings, at 0.174 s")
    assert third.startswith("fake · 2 steps makes one second of video")


def test_without_a_finished_cell_there_is_no_verdict(make, tmp_path):
    assert read(make.run(tmp_path / "run", [make.failed("crashed", "killed by SIGKILL")])) == [
        "No system has a finished cell yet, so there is nothing to compare."
    ]


def test_failed_and_undefined_scores_do_not_rank(make, tmp_path):
    undefined = make.score(None, note="no clip has a moving subject")
    cells = [
        cell(make, 2, 3.0, 0.2),
        cell(make, 4, 0.1, 0.1, outcome="invalid", message="NaN pixels"),
        make.record(steps=8, scores={"fvd-world": undefined}),
    ]
    assert "lab-teacher · 2 steps" in read(make.run(tmp_path / "run", cells))[0]


def test_zeros_that_save_nothing_are_not_the_cheapest(make, tmp_path):
    cells = [cell(make, 2, 1.0, 0.2, flags=(MASKED,)), cell(make, 8, 1.1, 0.2), cell(make, 28, 0.9, 0.2)]
    assert "lab-teacher · 8 steps with" in read(make.run(tmp_path / "run", cells))[1]


def test_only_equal_work_is_ranked(make, tmp_path):
    longer = cell(make, 4, 0.1, 0.01, knobs={"seconds": 60.0})
    pictured = cell(make, 4, 0.2, 0.01, knobs={"task": "image to video"}, system="pictured")
    truth = cell(make, None, 0.0, 0.1, system="truth", role="reference")
    cells = [longer, pictured, cell(make, 8, 1.1, 0.2), cell(make, 28, 1.0, 0.2), truth]
    (main,) = metrics(rows(load([make.run(tmp_path / "run", cells)])))
    assert [point.row.steps for point in main.comparable().systems] == [8, 28]
    assert len(main.comparable().references) == 1


def test_a_batch_is_as_fast_as_its_share_of_a_clip(make, tmp_path):
    cells = [cell(make, 8, 1.0, 0.2), cell(make, 28, 1.1, 0.2, knobs={"batch_size": 8})]
    assert "is lab-teacher · 28 steps" in read(make.run(tmp_path / "run", cells))[1]


def test_slower_than_playback_is_said(make, tmp_path):
    third = read(
        make.run(tmp_path / "run", [cell(make, 56, 1.0, 0.1, real_time_factor=factor(1.22, 1.1, 1.3))])
    )[2]
    assert "1.22× slower than it plays" in third


def factor(median, low, high):
    return Timing(median=median, low=low, high=high, n=5)


@pytest.mark.parametrize(
    ("bounds", "flags", "said"),
    [
        (
            (0.85, 0.7, 1.2),
            (DISTURBED,),
            "faster and slower, warm, on 2 cores of AMD EPYC 7B13, though other work disturbed its timing.",
        ),
        (
            (1.05, 0.99, 1.2),
            (),
            "about as fast as it plays: the interval includes both faster and slower, warm",
        ),
        ((0.85, 0.7, 1.0), (), "1.18× faster than it plays, warm, on 2 cores of AMD EPYC 7B13."),
        (
            (0.5, None, None),
            (DISTURBED,),
            "2× faster than it plays, warm, on 2 cores of AMD EPYC 7B13, though other",
        ),
    ],
)
def test_a_speed_is_no_surer_than_its_interval(make, tmp_path, bounds, flags, said):
    made = cell(make, 56, 1.0, 0.1, real_time_factor=factor(*bounds), flags=flags)
    assert said in read(make.run(tmp_path / "run", [made]))[2]


GOAL = {"higher": 0.9, "lower": 0.9, "target": 0.875}


@pytest.mark.parametrize(
    ("better", "value", "low", "high", "reaches"),
    [
        ("higher", 0.80, 0.75, 0.90, True),
        ("higher", 0.80, 0.75, 0.89, False),
        ("lower", 0.95, 0.90, 1.00, True),
        ("lower", 0.95, 0.91, 1.00, False),
        ("target", 0.80, 0.70, 0.90, True),
        ("target", 1.30, 1.13, 1.50, False),
        ("target", 1.30, 1.12, 1.50, True),  # as far from 1 as the goal, or nearer
        ("target", 1.30, None, None, False),
    ],
)
def test_reaching_means_that_the_interval_covers_the_goal(make, better, value, low, high, reaches):
    goal = Point(None, make.score(GOAL[better], better=better), GOAL[better])
    point = Point(None, make.score(value, better=better).model_copy(update={"low": low, "high": high}), value)
    assert point.reaches(goal) is reaches


def test_scores_of_different_protocols_are_different_metrics(make, tmp_path):
    cells = [
        make.record(steps=2, scores={"fvd-world": make.score(1.0)}),
        make.record(steps=4, scores={"fvd-world": make.score(0.5, protocol="fvd-world; n=2048")}),
        make.record(steps=8, scores={"fvd-world": make.score(0.9)}),
    ]
    found = metrics(rows(load([make.run(tmp_path / "run", cells)])))
    assert [(metric.title, len(metric.systems)) for metric in found] == [
        ("fvd-world", 2),
        ("fvd-world, protocol 2", 1),
    ]
    assert found[0].best().row.steps == 8


def test_times_of_two_environments_are_not_compared(make, tmp_path):
    """The better one by a hair ran elsewhere, where all takes longer: the setting beside it is compared with."""
    first = make.run(tmp_path / "a", [cell(make, 8, 1.05, 0.2), cell(make, 28, 1.0, 0.2)])
    elsewhere = cell(make, 2, 1.1, 0.2, fingerprint="e" * 16)
    second = make.run(tmp_path / "b", [elsewhere])
    found = rows(load([first, second]))
    said = re.sub("<[^>]+>", "", str(verdict(found, metrics(found)[0])[1]))
    assert "8\u00a0steps" in said
    assert "2\u00a0steps" not in said.replace("28\u00a0steps", "")


def test_only_the_same_prompts_are_ranked(make, tmp_path):
    few = Prompts(source="world test 0..15", count=16, sha256="b" * 64)
    cells = [cell(make, 2, 0.5, 0.1, prompts=few), cell(make, 8, 1.1, 0.1), cell(make, 28, 1.0, 0.1)]
    (main,) = metrics(rows(load([make.run(tmp_path / "run", cells)])))
    assert main.comparable().best().row.steps == 28


def test_a_batch_gains_by_its_share_with_its_interval(make, tmp_path):
    def timed(median, low, high):
        return {"end to end": Timing(median=median, low=low, high=high, n=5)}

    batch = cell(make, 4, 1.1, 0.2, knobs={"batch_size": 16}, stages=timed(16.0, 15.0, 17.0))
    alone = cell(make, 28, 1.0, 0.2, stages=timed(4.0, 3.9, 4.1))
    second = read(make.run(tmp_path / "run", [batch, alone]))[1]
    assert second.endswith("4.0× faster [3.7 – 4.4].")


def test_a_machine_that_was_slower_beside_one_is_said(make, tmp_path):
    slow, fast = ((Contamination(seconds=1.0, pace=pace),) for pace in (2e-3, 1e-3))
    cells = [cell(make, 8, 1.1, 0.2, contamination=slow), cell(make, 28, 1.0, 0.2, contamination=fast)]
    assert "took the machine 2× as long beside it" in read(make.run(tmp_path / "run", cells))[1]
