"""One curve a knob: cells that differ in it and in nothing else."""

from bench.records import Prompts
from reports.build import build
from reports.curves import curves
from reports.load import load
from reports.metrics import metrics
from reports.rows import rows


def found(folder):
    return {curve.knob: curve for curve in curves(metrics(rows(load([folder]))))}


def test_cells_of_two_systems_make_one_curve_where_one_knob_differs(make, tmp_path):
    cells = [make.record("teacher", steps, knobs={"sparsity": "none"}) for steps in (4, 8)]
    cells += [make.record("pruned", 4, knobs={"sparsity": f"structured-{r}"}) for r in (0.75, 0.25)]
    curve = found(make.run(tmp_path / "run", cells))["sparsity"]
    assert curve.values == ["none", "structured-0.25", "structured-0.75"]
    ((name, line),) = curve.lines
    assert name.replace("\u00a0", " ") == "pruned, 4 steps"
    assert [point.row.system for _, point in line] == ["teacher", "pruned", "pruned"]


def test_numbers_are_in_their_order_and_what_differs_twice_is_no_curve(make, tmp_path):
    cells = [make.record(steps=4, knobs={"batch_size": size}) for size in (16, 2, 8)]
    cells.append(make.record(steps=8, knobs={"batch_size": 1}))
    curve = found(make.run(tmp_path / "run", cells))["batch_size"]
    assert curve.values == ["2", "8", "16"]


def test_steps_alone_have_figures_already(make, tmp_path):
    assert found(make.run(tmp_path / "run", make.sweep())) == {}


def test_a_knob_of_cells_without_the_first_score_has_another(make, tmp_path):
    other = {"last-colour": make.score(0.5, better="higher")}
    cells = [make.record("long", 4, knobs={"window": w}, scores=other) for w in (17, 33)]
    folder = make.run(tmp_path / "run", [*make.sweep(), *cells])
    assert found(folder)["window"].metric.name == "last-colour"
    html = build([folder], tmp_path / "r.html").read_text("utf-8")
    assert "One knob at a time" in html
    assert "last-colour by window" in html


def test_other_prompts_are_no_line_of_a_curve(make, tmp_path):
    few = Prompts(source="world test 0..15", count=16, sha256="b" * 64)
    cells = [make.record(steps=4, knobs={"batch_size": 1}), make.record(steps=4, knobs={"batch_size": 2})]
    cells.append(make.record(steps=4, knobs={"batch_size": 16}, prompts=few))
    assert found(make.run(tmp_path / "run", cells))["batch_size"].values == ["1", "2"]
