"""A finished cell as a setting that one may choose: what it costs, how good it is, and how to ask for it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.records import Knob, Peak
from reports.metrics import Metric, Point
from reports.rows import FROM_IMAGE, STEPS, Row

CLI = {
    STEPS: "--steps",
    "guidance_scale": "--guidance",
    "shift": "--shift",
    "seconds": "--seconds",
    "window": "--window",
    "overlap": "--overlap",
    "chaining": "--chaining",
    "image_guidance_scale": "--image-guidance",
    "num_frames": "--frames",
    "history_noise": "--history-noise",
    "cross_fade": "--cross-fade",
    "solver": "--solver",
}
"""Knobs of our pipeline and their options of `python -m magic141 generate`; those of long video need `seconds`."""
FACTORISED, AT_ONCE = "text to video", "text to video at once"
"""Tasks of the lab's adapter: the first is what `generate` does."""
ONE_PASS = "one"
"""The value of `windows` of the control that is no setting to offer: its memory grows with length."""
LONG = (
    "seconds",
    "window",
    "overlap",
    "chaining",
    "anchor",
    "history_noise",
    "match_statistics",
    "cross_fade",
)
NOISE = "noise"
"""The reference row of suites that shows what a worthless clip scores."""
OURS = ("bench.baselines.lab:Lab", "bench.baselines.longvideo:LongVideo")
"""Adapters of our pipeline. Others may have a knob `model` as well."""
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
PROMPT = "a small red ring drifting left over dark stripes"


@dataclass(frozen=True)
class Setting:
    """`peak` of memory, None where it cannot be measured."""

    point: Point
    peak: Peak | None

    @property
    def memory(self) -> int | None:
        return self.peak.bytes if self.peak else None

    @property
    def row(self) -> Row:
        return self.point.row

    @property
    def seconds(self) -> float:
        """A clip: of a batch, its share."""
        return self.point.seconds

    def dominates(self, other: Setting) -> bool:
        """No worse in time, memory and quality, and better in one of them. Unknown memory is worse than any; times of
        two environments say nothing about the settings, nor do peaks of two kinds.
        """
        mine, its = self._costs(), other._costs()
        here = self.row.environment == other.row.environment
        alike = self.peak is None or other.peak is None or self.peak.kind == other.peak.kind
        return here and alike and all(a <= b for a, b in zip(mine, its, strict=True)) and mine != its

    def _costs(self) -> tuple[float, float, float]:
        return self.seconds, self.size, self.point.cost

    @property
    def size(self) -> float:
        """Memory as readers see it, with three digits: a few bytes decide nothing."""
        return float("inf") if self.memory is None else float(f"{self.memory:.3g}")


def settings(metric: Metric) -> list[Setting]:
    """Every system that carries the metric, fastest first, without masked ones."""
    found = [
        Setting(point, point.row.record.memory.peak)
        for point in metric.systems
        if point.row.record and point.row.record.memory and not point.row.masked
    ]
    return sorted(found, key=lambda setting: setting.seconds)


def front(found: Sequence[Setting]) -> list[Setting]:
    """Those that no other dominates, fastest first."""
    return [one for one in found if not any(other.dominates(one) for other in found)]


def above_noise(found: Sequence[Setting], metric: Metric) -> list[Setting]:
    """Those that score better than the reference `noise`, if there is one: being cheap is no merit of the others."""
    levels = [point.cost for point in metric.references if point.row.system == NOISE]
    return [one for one in found if all(one.point.cost < level for level in levels)]


def command(row: Row) -> str:
    """The command line that makes a clip at this setting; of another system, the one that measures it again."""
    knobs = row.knobs
    task = knobs.get("task", FACTORISED)
    if not _ours(row) or task not in (FACTORISED, AT_ONCE):
        return row.record.command if row.record else ""
    model, lines = str(knobs["model"]), []
    dtype = DTYPES.get(str(knobs.get("precision")))
    precision = ["--precision", dtype] if dtype else []
    if (sparsity := str(knobs.get("sparsity", "none"))) != "none":
        target = "./" + f"{model.rsplit('/', 1)[-1]}-{sparsity}".replace("+", "-")
        words = ["python", "-m", "magic141", "sparsify", "--model", model, "--sparsity", sparsity]
        if (criterion := _criterion(knobs)) is not None:
            words += ["--criterion", criterion, *["--refit"] * _prunes_layers(sparsity)]
        words += precision if dtype != "float32" else []
        lines.append(shlex.join([*words, "-o", target]))
        model = target
    words = ["python", "-m", "magic141", "generate", PROMPT, "-o", "clip.mp4", "--model", model]
    long = knobs.get("seconds") is not None
    for name, value in knobs.items():
        if name in CLI and value is not None and (long or name not in LONG):
            words += [CLI[name], f"{value:g}" if isinstance(value, float) else str(value)]
    words += ["--at-once"] if task == AT_ONCE else []
    if long:
        words += ["--anchor" if knobs.get("anchor") else "--no-anchor"]
        words += ["--match-statistics"] if knobs.get("match_statistics") else []
    return "\n".join([*lines, shlex.join([*words, *precision])])


def python(row: Row) -> str:
    """The same in Python; empty for systems that are not ours."""
    knobs = row.knobs
    if not _ours(row):
        return ""
    lines = [
        "from magic141 import Magic141Pipeline",
        f"pipe = Magic141Pipeline.from_pretrained({knobs['model']!r})",
    ]
    if knobs.get("precision") == "bf16":  # as the adapter does: the VAE stays in float32
        parts = [f"pipe.{part}.to(torch.bfloat16)" for part in ("transformer", "text_encoder")]
        lines = ["import torch", *lines, *parts]
    if knobs.get("sparsity", "none") != "none":
        lines += _sparsified(knobs)
    if (solver := knobs.get("solver")) is not None:
        lines += [
            "from magic141.solvers import with_solver",
            f"pipe.scheduler = with_solver({solver!r}, pipe.scheduler)",
        ]
    long = knobs.get("seconds") is not None
    names = (*LONG,) if long else ("num_frames",)
    wanted = [STEPS, "guidance_scale", "image_guidance_scale", "shift", *names]
    arguments = [f"{name}={knobs[name]!r}" for name in wanted if knobs.get(name) is not None]
    arguments += ["factorised=False"] if knobs.get("task") == AT_ONCE else []
    image = "image=picture, " if knobs.get("task") == FROM_IMAGE else ""
    call = "pipe.stream" if long else "pipe"
    lines.append(f"{'parts' if long else 'result'} = {call}({PROMPT!r}, {image}{', '.join(arguments)})")
    return "\n".join(lines)


def _criterion(knobs: Mapping[str, Knob]) -> str | None:
    """What makes a part important, where that is looked up on training scenes: the lab's adapter then refits."""
    criterion, sparsity = knobs.get("criterion"), str(knobs.get("sparsity"))
    prunes = _prunes_layers(sparsity) or "blocks-" in sparsity
    return str(criterion) if prunes and criterion not in (None, "magnitude") else None


def _prunes_layers(sparsity: str) -> bool:
    return any(way.startswith("structured-") for way in sparsity.split("+"))


def _sparsified(knobs: Mapping[str, Knob]) -> list[str]:
    """Lines of Python that prune and quantise `pipe` as the lab's adapter does."""
    sparsity = knobs["sparsity"]
    lines = ["from magic141.sparsify import apply, parse"]
    if (criterion := _criterion(knobs)) is None:
        return [*lines, f"apply(pipe, *parse({sparsity!r}))"]
    lines += ["from magic141.train import calibrate", f"shown = calibrate.losses(pipe, {knobs[STEPS]!r})"]
    return [*lines, f"apply(pipe, *parse({sparsity!r}, {criterion!r}, refit=True), calibration=shown)"]


def _ours(row: Row) -> bool:
    """Whether our pipeline made it, and not in the one pass that is no setting to offer."""
    asked = row.run.manifest.question.get("systems", {}).get(row.system, {})
    adapter = (row.record.adapter if row.record else "") or asked.get("adapter", "")
    return adapter in OURS and row.knobs.get("windows") != ONE_PASS
