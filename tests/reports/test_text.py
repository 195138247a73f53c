import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import text

values = st.floats(-1e6, 1e6, allow_nan=False)
spreads = st.floats(1e-6, 1e5)


@pytest.mark.parametrize(
    ("value", "low", "high", "shown", "bounds"),
    [
        (0.12345, 0.11345, 0.13345, "0.123", "0.113\u2009–\u20090.133"),
        (0.12345, 0.04345, 0.20345, "0.12", "0.04\u2009–\u20090.20"),
        (1234.5, 1134.5, 1334.5, "1,234", "1,134\u2009–\u20091,334"),
        (-0.0004, -0.05, 0.05, "0.00", "−0.05\u2009–\u20090.05"),
        (0.0, None, None, "0", ""),
        (3.14159, None, None, "3.14", ""),
        (None, None, None, "undefined", ""),
    ],
)
def test_digits_follow_the_interval(value, low, high, shown, bounds):
    assert text.number(value, low, high) == shown
    assert text.interval(value, low, high) == bounds


@given(values, spreads)
def test_rounding_stays_far_inside_the_interval(value, spread):
    shown = float(text.number(value, value - spread, value + spread).replace(",", "").replace("−", "-"))
    assert (
        abs(shown - value) <= max(0.5, 0.501 * spread)
        if spread > 1
        else abs(shown - value) <= 0.21 * spread + 1e-9
    )


@given(st.floats(1e-7, 1e5))
def test_seconds_keep_their_magnitude(value):
    shown = text.seconds(value)
    if "min" in shown:
        minutes, rest = shown.split(" min ")
        read = 60 * float(minutes) + float(rest.split()[0])
        assert math.isclose(read, value, abs_tol=0.51)
        return
    amount, unit = shown.split("\u00a0")
    scale = {"µs": 1e-6, "ms": 1e-3, "s": 1.0}[unit]
    assert math.isclose(float(amount.replace(",", "")) * scale, value, rel_tol=0.006)


def test_interval_of_seconds_is_in_the_unit_of_the_median():
    assert text.seconds(0.0812, 0.0712, 0.0912) == "81\u00a0ms"
    assert text.seconds(179.7) == "3 min 00 s"
    assert text.seconds_interval(0.0812, 0.0712, 0.1112) == "71\u2009–\u2009111\u00a0ms"
    assert text.seconds_interval(0.5, None, None) == ""


@pytest.mark.parametrize(
    ("count", "shown"), [(999, "999\u00a0B"), (48_200_000, "48.2\u00a0MB"), (2_000_000_000, "2\u00a0GB")]
)
def test_sizes(count, shown):
    assert text.size(count) == shown
