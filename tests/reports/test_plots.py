"""Figures: what is written into them can be read."""

from matplotlib.figure import Figure

from reports.plots import Label, _write


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
