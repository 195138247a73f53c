"""Run folders to one HTML file that needs nothing else: no network, no server, no script."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench.records import write_atomically
from reports import (
    analytic,
    budget,
    claims,
    clips,
    curves,
    exam,
    front,
    longvideo,
    plots,
    settings,
    stages,
    table,
    text,
)
from reports.caveats import caveats
from reports.load import ReportError, Run, load
from reports.metrics import Metric, metrics
from reports.rows import Row, rows
from reports.verdict import machine, verdict

MAX_BYTES = 15_000_000
"""A report can be mailed and attached. Clips beyond this are left out by whole rows, and the page says so."""

LONG_BYTES = 6_000_000
"""Of those, what long videos may take; the longest come first."""
OPEN_STRIPS = OPEN_PLOTS = 6
"""Rows of clips, and small plots, that stand open; the ones after them are folded."""

_HERE = Path(__file__).parent


def build(run_dirs: Sequence[Path], output: Path) -> Path:
    """Writes the report of one or several runs, finished or not, to `output`; returns it.

    The same records give the same bytes. The file appears whole or not at all.

    Raises:
        ReportError: a folder is missing or no run, has another schema version, the report is too large even
            without clips, or `output` cannot be written.
    """
    runs = load(run_dirs)
    html = _page(runs)
    try:
        if output.is_dir():
            raise IsADirectoryError(f"{output} is a folder; name a file, such as {output / 'report.html'}")
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, html)
    except OSError as error:
        raise ReportError(f"the report cannot be written to {output}: {error}") from error
    return output


def _page(runs: Sequence[Run]) -> str:
    cells = rows(runs)
    found = metrics(cells)
    main = next((metric for metric in found if metric.systems), None)
    wanted, problems = clips.strips([row for row in cells if row.long is None])
    examined, exam_problems = exam.exams(runs)
    counted, analytic_problems = analytic.tables(runs)
    claimed, claims_problems = claims.claims(runs)
    long, long_problems = _long(cells)
    problems += exam_problems + analytic_problems + claims_problems + long_problems
    ranked = main.comparable() if main else None
    chosen = settings.settings(ranked) if ranked else []
    useful = settings.above_noise(chosen, ranked) if ranked else []
    best = settings.front(useful)
    context = {
        "runs": runs,
        "cells": cells,
        "exams": examined,
        "analytics": counted,
        "claims": claimed,
        "other": [(run, record) for run in runs for record in run.records if record.kind != "cell"],
        "done": sum(row.record is not None for row in cells),
        "failed": [row for row in cells if row.record and not row.ok],
        "missing": [row for row in cells if row.record is None],
        "metrics": found,
        "metric": main,
        "verdict": verdict(cells, ranked),
        "machines": _unique(machine(run) for run in runs),
        "descriptions": _unique(run.manifest.question.get("description") for run in runs),
        "table": table.Table(cells, found),
        "command": f"python -m reports build {' '.join(map(_named, runs))} -o report.html",
        "budget": budget.budget(chosen),
        "front": best,
        "noisy": [one for one in chosen if one not in useful],
        "front_figure": Markup(front.draw(ranked, chosen, best, "front"))
        if ranked and best and len(chosen) > 1
        else "",
        "curves": [
            (curve, Markup(curves.draw(curve, f"knob-{index}")))
            for index, curve in enumerate(curves.curves(found))
        ],
        **long,
        **_figures(cells, found, main),
    }
    template = _environment().get_template("template.html.j2")

    def write(shown: Sequence[clips.Strip], left_out: Sequence[clips.Strip]) -> str:
        notes = caveats(runs, cells, found, problems, left_out)
        return template.render(context, strips=shown, left_out=left_out, caveats=notes)

    bare = len(write(clips.without_clips(wanted), wanted).encode())
    if bare > MAX_BYTES:
        raise ReportError(
            f"the report has {text.size(bare)} without any clip, more than {text.size(MAX_BYTES)}: "
            "build it from fewer runs"
        )
    return write(*clips.fit(wanted, MAX_BYTES - bare))


def _long(cells: Sequence[Row]) -> tuple[dict[str, Any], list[str]]:
    """What the section on long video shows, and what went wrong."""
    drifts, problems = longvideo.drifts(cells)
    found, lost = longvideo.videos(cells, LONG_BYTES)
    asked = dict.fromkeys(
        (longvideo.asked(drift), score)
        for score in dict.fromkeys(name for drift in drifts for name in drift.curves)
        for drift in drifts
        if score in drift.curves
    )
    return {
        "long_videos": found,
        "paces": longvideo.paces(cells),
        "length_figures": [
            (lengths, Markup(longvideo.draw_lengths(lengths, f"length-{index}")))
            for index, lengths in enumerate(longvideo.lengths(cells))
        ],
        "drifts": drifts,
        "drift_figures": [
            Markup(longvideo.draw_drift(score, drifts, f"drift-{index}", of))
            for index, (of, score) in enumerate(asked)
        ],
    }, problems + lost


def _figures(cells: Sequence[Row], found: Sequence[Metric], main: Metric | None) -> dict[str, Any]:
    series = dict.fromkeys(row.series for row in cells if row.ok and not row.reference)
    colours = {name: index for index, name in enumerate(series)}
    plotted = [metric for metric in found if metric.systems]
    large = []
    if main:
        large = [plots.against_latency(main, "main-latency", colours, large=True)]
        large.append(plots.against_steps(main, "main-steps", colours, large=True) or "")
    return {
        "series": colours,
        "legend": _legend(colours, plotted),
        "large": [Markup(figure) for figure in large if figure],
        "small": [
            (metric, Markup(plots.against_latency(metric, f"small-{index}", colours, large=False)))
            for index, metric in enumerate(plotted)
            if metric is not main
        ],
        "stages": Markup(stages.draw(cells, "stages") or ""),
    }


def _legend(colours: dict[str, int], plotted: Sequence[Metric]) -> list[tuple[str, int, str]]:
    """(series, colour, sign) of all that a figure has a point of."""
    shown = {point.row.series for metric in plotted for point in metric.systems}
    signs = {name: plots.SIGNS[plots.marker_of(index)] for name, index in colours.items() if name in shown}
    return [(name, colours[name], sign) for name, sign in signs.items()]


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(filter(None, values)))


def _named(run: Run) -> str:
    """The run folder as it was given, or its name: an absolute path says nothing on another machine."""
    return run.path.name if run.path.is_absolute() else run.path.as_posix()


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        text=text,
        table_of=table,
        OPEN_STRIPS=OPEN_STRIPS,
        OPEN_PLOTS=OPEN_PLOTS,
        passes=stages.passes,
        exam_hover=exam.hover,
        analytic_hover=analytic.hover,
        css=Markup((_HERE / "style.css").read_text(encoding="utf-8")),
        script=Markup(
            "".join((_HERE / name).read_text(encoding="utf-8") for name in ("script.js", "budget.js"))
        ),
        command_of=settings.command,
        python_of=settings.python,
        pretty=lambda value: json.dumps(value, indent=1, ensure_ascii=False, default=str),
    )
    return environment
