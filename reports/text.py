"""Numbers as a reader wants them: as many digits as the interval justifies, and the unit beside them."""

from __future__ import annotations

import math

MINUS = "\u2212"
DASH = "\u2013"


def number(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """`value` with the digits that its interval determines (three significant ones without an interval).

    `undefined` for None: a metric that says nothing about these clips.
    """
    return "undefined" if value is None else _fixed(value, _decimals(value, low, high))


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """`low–high` with the digits of `number`; empty where there is no interval."""
    if value is None or low is None or high is None:
        return ""
    places = _decimals(value, low, high)
    return f"{_fixed(low, places)}\u2009{DASH}\u2009{_fixed(high, places)}"


def seconds(value: float, low: float | None = None, high: float | None = None) -> str:
    """`value` in µs, ms, s or minutes."""
    if value >= 120 and low is None:
        minutes, rest = divmod(round(value), 60)
        return f"{minutes} min {rest:02d} s"
    scale, unit = _time_unit(value)
    return f"{number(value * scale, *_scaled(scale, low, high))}\u00a0{unit}"


def seconds_interval(value: float, low: float | None, high: float | None) -> str:
    """The interval of `seconds`, in the unit of `value`; empty where there is none."""
    scale, unit = _time_unit(value)
    bounds = interval(value * scale, *_scaled(scale, low, high))
    return f"{bounds}\u00a0{unit}" if bounds else ""


def size(count: int) -> str:
    """A byte count in MB or GB (powers of ten)."""
    for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= scale:
            return f"{count / scale:.3g}\u00a0{unit}"
    return f"{count}\u00a0B"


def times(ratio: float, low: float | None = None, high: float | None = None) -> str:
    """A ratio with the digits that its interval determines: `3.4×`."""
    if low is not None and high is not None:
        return f"{number(ratio, low, high)}×"
    return f"{ratio:.3g}×" if ratio < 100 else f"{ratio:.0f}×"


def count(value: int, noun: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{value:,} {noun}" if value == 1 else f"{value:,} {noun}s"


def _decimals(value: float, low: float | None, high: float | None) -> int:
    spread = (high - low) / 2 if low is not None and high is not None else 0.0
    if spread > 0:
        magnitude = math.floor(math.log10(spread))
        two = spread < 3 * 10**magnitude  # 0.012 has two digits that matter, 0.08 one
        return max(0, min(8, two - magnitude))
    return max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0


def _fixed(value: float, places: int) -> str:
    text = f"{value:,.{places}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def _time_unit(value: float) -> tuple[float, str]:
    if value < 1e-3:
        return 1e6, "µs"
    return (1e3, "ms") if value < 0.1 else (1.0, "s")


def _scaled(scale: float, *values: float | None) -> list[float | None]:
    return [None if value is None else value * scale for value in values]
