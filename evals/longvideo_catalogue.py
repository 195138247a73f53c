"""What the scores of long video are called, which way is better, and by what protocol they are measured; torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from evals.catalogue import CLIP_FRAMES, WEIGHTS, Metric, checked, identity
from evals.protocol import protocol_string
from magic141.data import factors

STRIDE = CLIP_FRAMES - 1
"""Scored windows are clips that share one frame, whatever the windows that the video was made in."""
SECONDS_PER_WINDOW = STRIDE / factors.FPS

KEPT = ("colour", "shape", "motion", "background")
"""Attributes that the last window must still show."""
ORACLE_CURVES = ("colour", "shape", "tracking-error", "speed-variation", "background-change")
PLAIN_CURVES = ("brightness", "sharpness", "flow", "first-colour", "first-layout", "first-palette")
SEAMS = {"change": "grey levels", "warp-error": "grey levels", "speed": "|ln of a ratio|"}
"""What may jump where windows meet, and its unit; the subject's speed by laws of one speed alone."""
_UNITS = {
    "colour": "fraction",
    "shape": "fraction",
    "tracking-error": "px",
    "speed-variation": "fraction",
    "background-change": "grey levels",
    "brightness": "grey levels",
    "sharpness": "grey levels²/px²",
    "flow": "px/frame",
    "first-colour": "CIE76",
    "first-layout": "correlation",
    "first-palette": "fraction",
}

METRICS: dict[str, Metric] = {
    **{f"last-{name}": Metric("higher", "fraction") for name in KEPT},
    **{
        f"drift-{name}": Metric("target", f"{_UNITS[name]} per minute", target=0.0)
        for name in (*ORACLE_CURVES, *PLAIN_CURVES)
    },
    **{f"seam-{name}": Metric("target", unit, target=0.0) for name, unit in SEAMS.items()},
}


def check_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once. Raises InputError for an unknown one, naming the nearest known."""
    return checked(names, METRICS, " of long video")


def protocol(metric: str) -> str:
    """The protocol string of a metric of long video. Raises WeightsMissing where its judge is not there."""
    facts: dict[str, object] = {"input": "uint8 arrays 64x64", "fps": factors.FPS}
    if metric.startswith("last-"):
        facts |= {"frames": f"the last window of {CLIP_FRAMES}", "judge": identity(WEIGHTS)}
    elif metric.startswith("drift-"):
        facts |= {"windows": f"{CLIP_FRAMES} frames, {STRIDE} apart", "slope": "least squares"}
        if metric.removeprefix("drift-") in ORACLE_CURVES:
            facts |= {"score": "oracle, any direction", "lost subject": "the worst value"}
    else:
        facts |= {"seams": "where windows were made to meet, else between scored ones"}
        facts["formula"] = "change across less change inside"
    if metric == "seam-speed":
        facts |= {
            "speed": "median over half a window of the subject's, 4 frames apart",
            "lost subject": "at rest",
        }
    return protocol_string(metric, **facts)
