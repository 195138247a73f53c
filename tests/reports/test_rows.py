from bench.records import RANDOM_WEIGHTS
from reports.load import load
from reports.rows import rows


def labels(folder):
    return [row.label.replace("\u00a0", " ") for row in rows(load([folder]))]


def test_step_counts_name_the_cells_and_references_come_last(make, tmp_path):
    folder = make.run(tmp_path / "run", make.sweep()[::-1])
    assert labels(folder) == [
        *(f"lab-teacher · {steps} steps" for steps in make.STEPS), "noise", "static", "truth",
    ]  # fmt: skip


def test_knobs_tuned_per_step_count_stay_out_of_names_and_curves(make, tmp_path):
    cells = [make.record(steps=steps, knobs={"shift": 8 / steps}) for steps in (2, 4)]
    found = rows(load([make.run(tmp_path / "run", cells)]))
    assert [row.label for row in found] == ["lab-teacher · 2\u00a0steps", "lab-teacher · 4\u00a0steps"]
    assert {row.series for row in found} == {"lab-teacher"}


def test_a_knob_that_varies_at_one_step_count_splits_the_curve(make, tmp_path):
    cells = [make.record(steps=4, knobs={"sparsity": value}) for value in (0.0, 0.5)]
    found = rows(load([make.run(tmp_path / "run", cells)]))
    assert [row.series for row in found] == ["lab-teacher · sparsity 0.0", "lab-teacher · sparsity 0.5"]


def test_a_knob_that_another_determines_is_not_named(make, tmp_path):
    cells = [
        make.record(steps=4, knobs={"outcome": o, "stage": s}) for o, s in (("oom", "load"), ("exit", "end"))
    ]
    assert labels(make.run(tmp_path / "run", cells)) == [
        "lab-teacher · 4 steps · outcome oom",
        "lab-teacher · 4 steps · outcome exit",
    ]


def test_planned_cells_without_a_record_are_rows(make, tmp_path):
    cells = make.sweep()
    found = rows(load([make.run(tmp_path / "run", cells[:4], missing=cells[4:6])]))
    assert [row.outcome for row in found] == ["ok"] * 4 + ["not run yet"] * 2


def test_a_planned_cell_of_random_weights_is_called_so_before_it_has_run(make, tmp_path):
    untrained = make.record(steps=4).model_copy(update={"flags": (RANDOM_WEIGHTS,)})
    (row,) = rows(load([make.run(tmp_path / "run", [], missing=[untrained])]))
    assert row.outcome == "not run yet"
    assert row.label.endswith("(random weights)")


def test_runs_are_told_apart_and_given_twice_count_once(make, tmp_path):
    one, two = (make.run(tmp_path / name, make.sweep()[:1]) for name in ("one", "two"))
    assert [row.label for row in rows(load([one, two, one]))] == [
        "lab-teacher · 2\u00a0steps (A)",
        "lab-teacher · 2\u00a0steps (B)",
    ]


def test_video_seconds_follow_from_latency_and_real_time_factor(make, tmp_path):
    (row,) = rows(load([make.run(tmp_path / "run", [make.record()])]))
    assert abs(row.video_seconds - 33 / 16) < 1e-9
