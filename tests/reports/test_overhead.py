"""Settings whose steps are not arithmetic."""

import pytest

from bench.records import Timing
from reports.build import build
from reports.load import load
from reports.overhead import overhead_bound
from reports.rows import rows


def cell(make, batch, seconds, **knobs):
    stages = {"denoise": Timing(median=seconds, n=5), "end to end": Timing(median=2 * seconds, n=5)}
    return make.record("teacher", 4, knobs={"batch_size": batch, **knobs}, stages=stages)


@pytest.fixture
def folder(make, tmp_path):
    cells = [
        cell(make, 1, 0.050),
        cell(make, 16, 0.64),
        cell(make, 1, 0.045, sparsity="structured-0.5"),
        cell(make, 16, 0.32, sparsity="structured-0.5"),
        cell(make, 1, 0.045, sparsity="int8"),
    ]
    return make.run(tmp_path / "run", cells)


def test_a_setting_is_bound_where_a_larger_batch_of_the_same_is_far_cheaper_a_clip(folder):
    found = rows(load([folder]))
    bound = overhead_bound(found)
    ((key, factor),) = bound.items()
    (row,) = (row for row in found if row.key == key)
    assert (row.knobs["sparsity"], row.knobs["batch_size"]) == ("structured-0.5", 1)
    assert factor == pytest.approx(0.045 / 0.02)


def test_the_report_says_so_at_the_row_and_among_the_caveats(folder, tmp_path):
    html = build([folder], tmp_path / "r.html").read_text("utf-8")
    assert html.count("overhead-bound: a clip") == 2  # tooltip and its label for readers aloud
    assert "overhead-bound, since" in html
