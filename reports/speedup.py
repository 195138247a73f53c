"""What few steps gain over many, end to end, beside the most that they can gain: Amdahl's law (1967)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bench.records import SLOWER, Timing
from reports import text
from reports.rows import Row
from reports.stages import breakdown

DENOISING = ("denoise", "image")
"""Stages that steps make up. The picture's one decoded frame counts as denoising too: the ceiling is not too low."""
FEW, MANY = 4, 28
"""Steps of each half that the comparison is between."""
WORK = ("task", "num_frames", "seconds", "batch_size")
"""Knobs that say how much is made: only equal work is compared."""

WIDER = "from the ends of both 95 % intervals, and so wider than one of 95 %"
"""Of the interval of a ratio: what a reader should know."""


@dataclass(frozen=True)
class SpeedUp:
    """`ceiling`: of the slower setting, if all of its denoising took no time; None where nothing else takes time."""

    fast: Row
    slow: Row
    ratio: float
    low: float | None
    high: float | None
    ceiling: float | None


def ceiling(row: Row) -> float | None:
    """Whole over what is not denoising: text, picture and video coding, and the file."""
    parts = breakdown(row)
    whole, fixed = sum(parts.values()), sum(parts[stage] for stage in parts if stage not in DENOISING)
    return whole / fixed if fixed > 0 else None


def speed_ups(rows: Sequence[Row]) -> list[SpeedUp]:
    """Every setting of `FEW` steps without guidance, against one of `MANY` steps with it of the same run and work."""
    found = []
    for fast in (row for row in rows if _is(row, FEW, guided=False)):
        for slow in (row for row in rows if _is(row, MANY, guided=True)):
            same = (
                fast.run is slow.run
                and fast.environment == slow.environment
                and all(fast.knobs.get(knob) == slow.knobs.get(knob) for knob in WORK)
            )
            if not same or fast.latency is None or slow.latency is None:
                continue
            found.append(SpeedUp(fast, slow, *ratio(slow.latency, fast.latency), ceiling(slow)))
    return found


def sentences(gains: Sequence[SpeedUp], link: Callable[[Row], Markup]) -> list[Markup]:
    """For the verdict: one for every slower setting, which names all that are compared with it."""
    slower = dict.fromkeys(gain.slow.key for gain in gains)
    return [_sentence([gain for gain in gains if gain.slow.key == key], link) for key in slower]


def _sentence(gains: Sequence[SpeedUp], link: Callable[[Row], Markup]) -> Markup:
    slow, most = gains[0].slow, gains[0].ceiling
    *others, last = (_gain(gain, link(gain.fast)) for gain in gains)
    return Markup("{}{} than {}, text to file, warm, encoders and VAE included{}.").format(
        Markup(", ").join(others) + Markup(" and ") if others else "",
        last,
        link(slow),
        Markup("; with denoising that took no time it would be {} (Amdahl&rsquo;s ceiling)").format(
            text.times(most)
        )
        if most is not None
        else "",
    )


def _gain(gain: SpeedUp, name: Markup) -> Markup:
    found, word = (gain.ratio, gain.low, gain.high), "faster"
    if gain.ratio < 1:
        found, word = inverse(*found), "slower"
    counts = " and ".join(str(row.latency.n) for row in (gain.fast, gain.slow) if row.latency)
    hover = f"n = {counts}; {WIDER}"
    return Markup("{} is <strong>{} {}</strong>{}{}").format(
        name, text.times(*found), word, bounds(*found, hover), pace(gain.fast, gain.slow)
    )


def inverse(ratio: float, low: float | None, high: float | None) -> tuple[float, float | None, float | None]:
    """1 / ratio, with its interval."""
    return 1 / ratio, 1 / high if high else None, 1 / low if low else None


def bounds(ratio: float, low: float | None, high: float | None, hover: str) -> Markup:
    """The interval of a ratio in small print; nothing where there is none."""
    shown = text.interval(ratio, low, high)
    return Markup(' <small title="{}">[{}]</small>').format(hover, shown) if shown else Markup("")


def pace(row: Row, other: Row) -> str:
    """A warning where the machine was not as fast beside one as beside the other."""
    if row.pace is None or other.pace is None:
        return ""
    ratio = row.pace / other.pace
    if 1 / SLOWER <= ratio <= SLOWER:
        return ""
    return f" (but a fixed piece of work took the machine {text.times(ratio)} as long beside it)"


def _is(row: Row, steps: int, *, guided: bool) -> bool:
    scale = row.knobs.get("guidance_scale")
    return (
        row.ok and not row.reference and row.steps == steps and scale is not None and (scale != 1) is guided
    )


def ratio(slow: Timing, fast: Timing) -> tuple[float, float | None, float | None]:
    """Of the medians, with an interval from the ends of both: wider than 95 %."""
    found = slow.median / fast.median
    if slow.low is None or slow.high is None or fast.low is None or fast.high is None:
        return found, None, None
    return found, slow.low / fast.high, slow.high / fast.low
