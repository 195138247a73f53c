"""Sentences computed from the records: the best quality, what reaches it for less, the speed, what few steps gain."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from bench.records import DISTURBED, Timing
from reports import speedup, text
from reports.load import Run
from reports.metrics import Metric, Point
from reports.rows import Row

EVEN = "about as fast as it plays"


def verdict(rows: Sequence[Row], metric: Metric | None) -> list[Markup]:
    """One to three sentences, and one for each pair of few steps and many, as HTML with links to the cells.

    `metric` decides what "best" means.
    """
    timed = [(row, row.latency) for row in rows if row.ok and not row.reference and row.latency]
    if not timed:
        return [Markup("No system has a finished cell yet, so there is nothing to compare.")]
    best = metric.best() if metric else None
    if metric is None or best is None:
        row, latency = min(timed, key=lambda entry: (entry[0].masked, entry[0].clip_seconds))
        return [
            Markup("No cell carries a quality score, so only cost can be compared."),
            Markup("{} is the fastest of {}, at {} a batch.").format(
                link(row), text.count(len(timed), "setting"), _time(latency)
            ),
            _speed(row),
        ]
    chosen, sentence = _cheapest(metric, best)
    gains = speedup.sentences(speedup.speed_ups(rows), link)
    return [_best(metric, best), sentence, _speed(chosen.row), *gains]


def link(row: Row) -> Markup:
    return Markup('<a href="#{}"><strong>{}</strong></a>').format(row.key, row.label)


def machine(run: Run) -> str:
    """The hardware of a run, in a few words."""
    environment = run.manifest.environment
    return environment.gpu or f"{text.count(environment.cores, 'core')} of {environment.cpu}"


def _best(metric: Metric, best: Point) -> Markup:
    ranked = sorted(metric.references, key=lambda point: point.cost)
    anchors = ", ".join(f"{metric.reference_name(point)} scores {point.shown}" for point in ranked)
    return Markup("Best quality by {} ({}): {} with {}{}.").format(
        metric.title,
        metric.direction,
        link(best.row),
        _score(best),
        f"; for scale, {anchors}" if anchors else "",
    )


def _cheapest(metric: Metric, best: Point) -> tuple[Point, Markup]:
    """The fastest setting whose interval reaches the best score, and the sentence that says so."""
    here = [point for point in metric.systems if point.row.environment == best.row.environment]
    cheaper = sorted(
        (point for point in here if point.seconds < best.seconds and not point.row.masked),
        key=lambda point: point.seconds,
    )
    if not cheaper:
        return best, Markup("No setting that was scored is faster.")
    reaching = next((point for point in cheaper if point.reaches(best)), None)
    nearest = reaching or min(cheaper, key=lambda point: point.cost)
    wording = (
        "The cheapest setting whose 95&nbsp;% interval reaches that score is {} with {}, {}{}."
        if reaching
        else "No faster setting has a 95&nbsp;% interval that reaches it; the nearest is {} with {}, {}{}."
    )
    sentence = Markup(wording).format(
        link(nearest.row),
        _score(nearest),
        *_faster(nearest, best),
    )
    return reaching or best, sentence


def _faster(point: Point, best: Point) -> tuple[Markup, str]:
    """How much less time a clip takes, of a batch its share, with an interval where both times have one; and what
    speaks against it.
    """
    ratio, low, high = best.seconds / point.seconds, None, None
    if point.row.latency and best.row.latency:
        whole, low, high = speedup.ratio(best.row.latency, point.row.latency)
        share = ratio / whole
        low, high = (None if bound is None else bound * share for bound in (low, high))
    overlap = ", though the intervals of the two latencies overlap" if low is not None and low <= 1 else ""
    said = Markup("{} faster{}").format(
        text.times(ratio, low, high), speedup.bounds(ratio, low, high, speedup.WIDER)
    )
    return said, overlap + speedup.pace(point.row, best.row)


def _speed(row: Row) -> Markup:
    factor = row.record.real_time_factor if row.record else None
    if factor is None:
        return Markup("Its speed was not measured.")
    pace = _pace(factor)
    return Markup("{} makes one second of video in {}, <strong>{}</strong>{}, warm, on {}{}.").format(
        link(row),
        _time(factor),
        pace,
        ": the interval includes both faster and slower" if pace == EVEN else "",
        machine(row.run),
        ", though other work disturbed its timing" if _disturbed(row) else "",
    )


def _pace(factor: Timing) -> str:
    """How fast against playback, where the interval says."""
    if factor.low is not None and factor.high is not None and factor.low < 1 < factor.high:
        return EVEN
    found = (factor.median, factor.low, factor.high)
    if factor.median <= 1:
        return f"{text.times(*speedup.inverse(*found))} faster than it plays"
    return f"{text.times(*found)} slower than it plays"


def _disturbed(row: Row) -> bool:
    return row.record is not None and DISTURBED in row.record.flags


def _score(point: Point) -> Markup:
    return Markup('<span title="{}"><b class="n">{}</b> <small>[{}], n&nbsp;=&nbsp;{}</small></span>').format(
        f"{point.score.protocol}\n{point.row.record.command if point.row.record else ''}",
        _with_unit(point),
        point.bounds or "no interval",
        f"{point.score.n:,}",
    )


def _with_unit(point: Point) -> str:
    return f"{point.shown} {point.score.unit}" if point.score.unit not in ("", "fraction") else point.shown


def _time(timing: Timing) -> Markup:
    bounds = text.seconds_interval(timing.median, timing.low, timing.high)
    return Markup('<span title="{}"><b class="n">{}</b> <small>[{}], n&nbsp;=&nbsp;{}</small></span>').format(
        "median of warm runs, end to end, with its 95 % interval",
        text.seconds(timing.median, timing.low, timing.high),
        bounds or "no interval",
        timing.n,
    )
