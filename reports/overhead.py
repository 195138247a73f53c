"""Which settings spend most of a denoising step on anything but arithmetic, so that fewer weights cannot speed them up.

A step's arithmetic grows with its batch, its overhead (dispatch, kernel launches, threads that wait) does not. So a
setting is overhead-bound where a clip's share of a step takes more than `FACTOR` times what it takes in the largest
batch of the same setting in the same run.
"""

from __future__ import annotations

from collections.abc import Sequence

from reports.rows import Row

DENOISE = "denoise"
"""The stage that is one step."""
FACTOR = 2.0
BATCH = "batch_size"


def overhead_bound(rows: Sequence[Row]) -> dict[str, float]:
    """By the key of each such row, how many times longer a clip's denoising step takes than in the largest batch."""
    alike: dict[str, list[Row]] = {}
    for row in rows:
        if row.ok and not row.reference and step_seconds(row) is not None:
            rest = sorted((name, value) for name, value in row.knobs.items() if name != BATCH)
            weights = row.record.weights_sha256 if row.record else None
            alike.setdefault(repr((row.run.manifest.run, rest, weights)), []).append(row)
    found = {}
    for group in alike.values():
        largest = max(group, key=_batch)
        best = step_seconds(largest)
        for row in group:
            seconds = step_seconds(row)
            if best and seconds and _batch(row) < _batch(largest) and seconds > FACTOR * best:
                found[row.key] = seconds / best
    return found


def step_seconds(row: Row) -> float | None:
    """Seconds of one denoising step, of one clip's share of its batch."""
    timing = row.record.stages.get(DENOISE) if row.record else None
    return timing.median / _batch(row) if timing else None


def _batch(row: Row) -> int:
    value = row.knobs.get(BATCH)
    return int(value) if isinstance(value, int | float) and value else 1
