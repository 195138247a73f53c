"""Long video in the report: pace, memory and time against length, drift, and the video itself."""

import json
from dataclasses import replace

import pytest

from bench.records import Clip, Memory, Score, Timing, Windows, write_samples
from reports.build import build
from reports.load import load
from reports.longvideo import asked, draw_drift, drifts, lengths, titled, videos
from reports.rows import rows

PACE = Windows(
    first_frame=Timing(median=0.5, n=1, samples=(0.5,)),
    later=Timing(median=0.2, low=0.1, high=0.3, n=29),
    jitter=0.05,
    slowest=0.4,
)


def long(make, seconds, wall, size, name="long video", **fields):
    none = "not measurable"
    memory = Memory(tensors=size, resident=5, cuda_allocated=none, cuda_reserved=none, nvml_process=none)
    timing = Timing(median=wall, low=wall, high=wall, n=5)
    scores = {"drift-colour": make.score(-0.1, better="target", target=0.0)}
    made = {"knobs": {"seconds": seconds}, "scores": scores, "memory": memory, "windows": PACE}
    stages = {"end to end": timing, "window": timing, "denoise": timing}
    return make.record(name, 4, **{**made, "stages": stages, **fields})


@pytest.fixture
def run(make, tmp_path):
    """A video of 5, 15 and 60 s with curves and a stored clip, and the truth beside it."""
    cells = [long(make, s, 0.1 * s + 0.2, 1000 + s) for s in (60.0, 5.0, 15.0)]
    cells.append(long(make, 60.0, 0.1, 10, "truth", role="reference", windows=None))
    folder = make.run(tmp_path / "run", [*cells, *make.sweep()])
    (folder / "records.jsonl").unlink()
    for number, one in enumerate(cells):
        path = f"clips/{one.cell}/00000-0.mp4"
        make.clip(folder / path, (220, 60, 60))
        curves = {"colour": [1.0, 0.9, None], "brightness": [90.0, 91.0, 92.0 + number]}
        curves["speed-variation"] = [None, None, None]  # it stands still
        samples = [
            {"index": i, "prompt": "p", "seed": 0, "curves": curves, "window_seconds": 2.0} for i in range(2)
        ]
        clip = Clip(index=0, prompt="a small red ring", seed=0, path=path)
        update = {"clips": (clip,), "samples": write_samples(folder, one.cell, samples)}
        make.append(folder, one.model_copy(update=update))
    for one in make.sweep():
        make.append(folder, one)
    return folder


def test_peaks_and_times_are_held_against_length(run):
    (found,) = lengths(rows(load([run])))
    assert found.seconds == [5.0, 15.0, 60.0]
    assert found.growth == pytest.approx(1060 / 1005)
    assert found.line == pytest.approx((0.1, 0.2))
    assert found.residual == pytest.approx(0, abs=1e-9)
    assert "from 5 s to 60 s: the largest peak memory is 1.05× that of 5 s" in found.sentence
    assert "a second of video takes 0.100\u00a0s, and no length is more than 0.0 % off" in found.sentence


def test_peaks_of_two_kinds_are_not_compared(make, tmp_path):
    cells = [long(make, 5.0, 0.7, 30_000_000), long(make, 60.0, 6.2, 30_000_000)]
    cells[1] = cells[1].model_copy(
        update={"memory": cells[1].memory.model_copy(update={"resident": 250_000_000})}
    )
    (found,) = lengths(rows(load([make.run(tmp_path / "run", cells)])))
    assert (found.peaks, found.growth) == ([30_000_000, None], None)


def test_what_bends_is_off_the_line(make, tmp_path):
    cells = [long(make, s, wall, 1000) for s, wall in ((5.0, 1.0), (15.0, 3.0), (60.0, 40.0))]
    (found,) = lengths(rows(load([make.run(tmp_path / "run", cells)])))
    assert found.residual > 0.3
    (two,) = lengths(rows(load([make.run(tmp_path / "two", cells[:2])])))
    assert two.residual is None


def test_curves_are_means_over_videos(run):
    found, problems = drifts(rows(load([run])))
    assert problems == []
    assert len(found) == 4
    curves = next(drift for drift in found if drift.row.long == 60.0).curves
    assert curves["colour"][:2].tolist() == [1.0, 0.9]
    assert curves["colour"][2] != curves["colour"][2]  # no video has it
    assert "speed-variation" not in curves


def test_curves_of_other_prompts_have_a_figure_and_a_truth_of_their_own(run):
    found = drifts(rows(load([run])))[0]
    others = [replace(found[0].row, record=found[0].row.record.model_copy(update={"seeds": (7,)}))]
    all_of_them = [*found, replace(found[0], row=others[0], videos=1)]
    drawn = [
        draw_drift("colour", all_of_them, f"d{n}", of) for n, of in enumerate(map(asked, all_of_them[-2:]))
    ]
    assert "colour, n = 2, by window" in drawn[0]
    assert "colour, n = 1, by window" in drawn[1]
    assert "truth" in drawn[0]
    assert "truth" not in drawn[1]


def test_lost_curves_are_named(run, make):
    record = load([run])[0].records[0]
    (run / record.samples.path).write_text("{}\n")
    assert "its curves cannot be read" in drifts(rows(load([run])))[1][0]


def test_long_videos_are_shown_while_there_is_room(run):
    found, problems = videos(rows(load([run])), 10**6)
    assert (len(found), problems) == (4, [])
    assert [video.row.long for video in found] == [60.0, 60.0, 15.0, 5.0]
    found, problems = videos(rows(load([run])), 3 * len(found[0].uri) // 2)
    assert len(found) == 1
    assert "left out to keep this file small" in problems[0]


def test_paths_out_of_the_run_are_not_read(run):
    lines = (run / "records.jsonl").read_text("utf-8").splitlines()
    first = json.loads(lines[0])
    first["clips"][0]["path"] = "../secret.mp4"
    (run / "records.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n", "utf-8")
    found, problems = videos(rows(load([run])), 10**6)
    assert len(found) == 3
    assert "leads out of the run" in problems[0]


def test_the_report_has_the_section_and_keeps_long_videos_out_of_the_strips(run, tmp_path):
    html = build([run], tmp_path / "r.html").read_text("utf-8")
    section = html[html.index('id="long"') : html.index("</section>", html.index('id="long"'))]
    assert section.count("<video controls") == 4
    assert section.count("<svg") == 3  # lengths, and two scores that drift
    assert "first frame after" in section
    assert html.count("<video") == 4  # the strips have none of them
    assert "stages of" not in section


def test_without_long_video_there_is_no_section(make, tmp_path):
    html = build([make.run(tmp_path / "run", [make.record()])], tmp_path / "r.html").read_text("utf-8")
    assert 'id="long"' not in html


def test_a_curve_is_called_by_its_unit(run):
    found, _ = drifts(rows(load([run])))
    assert titled("right-shape", found) == "shape right, share of videos"
    rate = Score(value=1.0, n=2, protocol="p", better="target", target=0.0, unit="px per minute")
    record = found[0].row.record.model_copy(update={"scores": {"drift-tracking-error": rate}})
    told = replace(found[0], row=replace(found[0].row, record=record))
    assert titled("tracking-error", [told]) == "tracking-error (px)"
    assert titled("anything", [told]) == "anything"
