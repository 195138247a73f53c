"""The record of a benchmark cell, the manifest of a run, and the append-only store. Imports no torch.

All that `reports` may import of the harness.

A run is a folder:

    run.json          the manifest: suite, environment, plan with predicted and measured budget
    records.jsonl     one `Record` a line, appended by the driver alone
    samples/ID.jsonl  one line per prompt and seed of cell ID: its scores, for paired comparisons
    clips/ID/*.mp4    sample clips, named in `Record.clips`

Samples are JSON lines and not parquet or npz: rows are few (prompts x seeds), floats round-trip exactly,
`pandas.read_json(lines=True)`, `jq` and `diff` read them, and no reader needs a binary dependency.
"""

from bench.records.base import SCHEMA_VERSION, Frozen, RecordError, digest, write_atomically
from bench.records.claims import CLAIMS, PUBLISHED_CLAIMS, ClaimRow, ClaimsTable, Curve, CurvePoint, StepRow
from bench.records.manifest import Budget, Environment, FirstClip, Manifest, PlannedCell
from bench.records.record import (
    DECIDED,
    DISTURBED,
    END_TO_END,
    MASKED,
    NOT_MEASURABLE,
    RANDOM_WEIGHTS,
    RESIDENT,
    SLOWER,
    WINDOW,
    Bytes,
    Clip,
    ColdStart,
    Contamination,
    Kind,
    Knob,
    Memory,
    Outcome,
    Peak,
    Prompts,
    Record,
    Score,
    Sidecar,
    Timing,
    Windows,
)
from bench.records.rows import AnalyticRow, ExamRow
from bench.records.store import Store, latest, read_samples, write_samples

__all__ = [
    "CLAIMS",
    "DECIDED",
    "DISTURBED",
    "END_TO_END",
    "MASKED",
    "NOT_MEASURABLE",
    "PUBLISHED_CLAIMS",
    "RANDOM_WEIGHTS",
    "RESIDENT",
    "SCHEMA_VERSION",
    "SLOWER",
    "WINDOW",
    "AnalyticRow",
    "Budget",
    "Bytes",
    "ClaimRow",
    "ClaimsTable",
    "Clip",
    "ColdStart",
    "Contamination",
    "Curve",
    "CurvePoint",
    "Environment",
    "ExamRow",
    "FirstClip",
    "Frozen",
    "Kind",
    "Knob",
    "Manifest",
    "Memory",
    "Outcome",
    "Peak",
    "PlannedCell",
    "Prompts",
    "Record",
    "RecordError",
    "Score",
    "Sidecar",
    "StepRow",
    "Store",
    "Timing",
    "Windows",
    "digest",
    "latest",
    "read_samples",
    "write_atomically",
    "write_samples",
]
