"""Figures: what is written into them can be read."""

import re

from matplotlib.figure import Figure

from reports.load import load
from reports.metrics import metrics
from reports.plots import Label, _write, against_latency
from reports.rows import rows


def test_of_labels_that_would_lie_on_each_other_the_first_is_written():
    figure = Figure(figsize=(4, 3))
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    above = (5.0, 4.0)
    labels = [
        Label("16", 0.500, 0.5, above, "C0"),
        Label("28", 0.505, 0.5, above, "C1"),
        Label("4", 0.505, 0.4, above, "C1"),
        Label("8", 0.6, 0.5, above, "C1"),
    ]
    _write(axes, labels, figure.dpi)
    assert [text.get_text() for text in axes.texts] == ["16", "4", "8"]


def test_step_counts_stand_at_the_points(make, tmp_path):
    cells = [make.record(steps=steps, quality=1 - 0.9 / steps) for steps in (3, 17)]
    main = metrics(rows(load([make.run(tmp_path / "run", cells)])))[0]
    picture = against_latency(main, "p", {point.row.series: 0 for point in main.systems}, large=True)
    assert {"3", "17"} <= set(re.findall(r">(\d+)</text>", picture))
