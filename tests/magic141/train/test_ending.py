"""What a training leaves beside its weights."""

import json

from magic141.train import ending
from magic141.train.loop import Progressed


def curve(*steps):
    return "".join(
        json.dumps({"step": step, "samples": 4 * step, "seconds": 0.1 * step, "loss": 1 / step}) + "\n"
        for step in steps
    )


def leave(folder, seen, seed=0):
    ending.leave("t2i", seen, folder, seed, "cpu")
    return json.loads((folder / "card.json").read_text("utf-8"))


def test_a_point_that_was_written_in_part_is_left_out(tmp_path):
    (tmp_path / "loss.jsonl").write_text(curve(10, 20) + '{"step": 30, "sam' + curve(30, 40) + '{"step"')
    assert [point["step"] for point in ending._points(tmp_path / "loss.jsonl")] == [10, 20, 40]
    assert leave(tmp_path, Progressed(40, 160, 4.0))["step"] == 40
    assert (tmp_path / "loss.png").stat().st_size


def test_a_curve_without_a_whole_point_is_no_picture(tmp_path):
    (tmp_path / "loss.jsonl").write_text('{"step"')
    assert leave(tmp_path, Progressed(1, 4, 0.1))["step"] == 1
    assert not (tmp_path / "loss.png").exists()


def test_the_card_names_the_run_that_trained_last(tmp_path):
    (tmp_path / "loss.jsonl").write_text("")
    assert leave(tmp_path, Progressed(8, 32, 1.5), seed=1)["seed"] == 1
    assert leave(tmp_path, Progressed(8, 32, 1.5), seed=2)["seed"] == 1  # it took no step
    assert leave(tmp_path, Progressed(16, 64, 3.0), seed=3)["seed"] == 3
    assert leave(tmp_path, Progressed(16, 64, 2.9), seed=4)["seed"] == 4  # trained anew


def test_a_card_that_was_cut_off_is_written_anew(tmp_path):
    (tmp_path / "card.json").write_text('{"stage": "t2i", "com')
    (tmp_path / "loss.jsonl").write_text("")
    assert leave(tmp_path, Progressed(1, 4, 0.1))["samples"] == 4
