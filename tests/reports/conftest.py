"""Runs as the bench writes them, with numbers that follow a simple law: error falls and time grows with steps."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from bench.records import (
    END_TO_END,
    Budget,
    Clip,
    Environment,
    Knob,
    Manifest,
    Memory,
    PlannedCell,
    Prompts,
    Record,
    Score,
    Store,
    Timing,
    digest,
    write_samples,
)

STARTED = datetime(2026, 11, 23, 18, 0, tzinfo=UTC)
STEPS = (2, 4, 8, 16, 28, 56)
PROMPTS = ("a small red ring drifting left over dark stripes", "a large blue star orbiting over snow")
VIDEO_SECONDS = 33 / 16


def timing(seconds: float, n: int = 5) -> Timing:
    return Timing(median=seconds, low=0.95 * seconds, high=1.07 * seconds, n=n)


def score(value: float | None, spread: float = 0.05, better: Any = "lower", **fields: Any) -> Score:
    bounds = {} if value is None else {"low": value - spread, "high": value + spread}
    protocol = fields.pop("protocol", "fvd-world; frames=1-32; n=64; weights=0123abcd")
    fields.setdefault("target", 1.0 if better == "target" else None)
    return Score(value=value, n=64, protocol=protocol, better=better, **{**bounds, **fields})


def scores(quality: float) -> dict[str, Score]:
    """`quality` from 0 (noise) to 1 (truth)."""
    return {
        "fvd-world": score(8 * (1 - quality) ** 2, 0.02 + 0.3 * (1 - quality) ** 2, floor=0.11),
        "accuracy-mean": score(
            0.15 + 0.84 * quality, 0.02, "higher", protocol="judge; n=64", unit="fraction"
        ),
        "motion-ratio": score(0.4 + 0.6 * quality, 0.06, "target", protocol="motion; lag=3; n=64"),
        "first-frame-psnr": score(8 + 22 * quality, 0.8, "higher", protocol="psnr; n=64", unit="dB"),
    }


def record(system: str = "lab-teacher", steps: int | None = 8, quality: float = 0.8, **fields: Any) -> Record:
    knobs: dict[str, Knob] = {"num_inference_steps": steps, "batch_size": 1} if steps else {"batch_size": 1}
    knobs |= fields.pop("knobs", {})
    denoise = 0.031 * (steps or 0)
    parts = {"text encode": 0.004, "image (T2I)": 0.4 * denoise, "image encode": 0.003, "VAE decode": 0.06}
    stages = {name: timing(seconds) for name, seconds in parts.items() if seconds}
    if steps:
        stages["denoising step"] = timing(0.031, n=5 * steps)
    end = sum(parts.values()) + denoise + 0.02
    made: dict[str, Any] = {
        "cell": digest([system, knobs, fields.get("weights_sha256")]),
        "fingerprint": "f" * 16,
        "suite": "lab",
        "system": system,
        "knobs": knobs,
        "prompts": Prompts(source="world test 0..63", count=64, sha256="a" * 64),
        "seeds": (0,),
        "outcome": "ok",
        "stages": {**stages, "file encode": timing(0.015), END_TO_END: timing(end)},
        "real_time_factor": timing(end / VIDEO_SECONDS),
        "memory": Memory(
            tensors=48_000_000 + 100_000 * (steps or 1),
            resident=91_000_000,
            cuda_allocated="not measurable",
            cuda_reserved="not measurable",
            nvml_process="not measurable",
        ),
        "scores": scores(quality),
        "command": f"python -m bench run bench/suites/lab.yaml --only {system}/{steps}",
        "started": STARTED,
        "seconds": 20.0,
    }
    return Record(**{**made, **fields})


def failed(outcome: str, message: str, **fields: Any) -> Record:
    nothing = {"stages": {}, "real_time_factor": None, "memory": None, "scores": {}}
    return record(outcome=outcome, message=message, **{**nothing, **fields})


def sweep() -> list[Record]:
    """The shape of the lab suite: six step counts of one system, three references."""
    cells = [record(steps=steps, quality=1 - 0.9 / steps**0.5) for steps in STEPS]
    references = {"truth": 1.0, "static": 0.45, "noise": 0.0}
    return cells + [record(name, None, quality, role="reference") for name, quality in references.items()]


def clip_bytes(path: Path, colour: tuple[int, int, int], frames: int = 33, noise: int = 0) -> None:
    """A tiny H.264 clip of a square that moves right, in `colour`, with `noise` levels of grain."""
    draw = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=16, options={"crf": "20"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            picture = np.full((64, 64, 3), 40, np.uint8)
            left = (4 + index) % 52
            picture[26:38, left : left + 12] = colour
            if noise:
                picture = np.clip(picture + draw.integers(-noise, noise, picture.shape), 0, 255).astype(
                    np.uint8
                )
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def with_clips(folder: Path, made: Record, number: int, prompts: Sequence[str] = PROMPTS) -> Record:
    """`made` with one fixed clip a prompt, the last of them the worst one too, and its sidecar file."""
    clips = []
    for index, prompt in enumerate(prompts):
        path = f"clips/{made.cell}/{index:05d}-{index}.mp4"
        clip_bytes(folder / path, (220, 60 + 20 * (number % 9), 60), noise=max(0, 60 - 10 * number))
        clips.append(Clip(index=index, prompt=prompt, seed=index, path=path))
    clips.append(clips[-1].model_copy(update={"role": "worst"}))
    rows = [{"index": i, "prompt": text, "seed": i, "colour": i / 2} for i, text in enumerate(prompts)]
    return made.model_copy(update={"clips": tuple(clips), "samples": write_samples(folder, made.cell, rows)})


def write_run(
    folder: Path,
    records: Sequence[Record],
    missing: Sequence[Record] = (),
    clips: bool = False,
    **fields: Any,
) -> Path:
    """A run folder with `records`; `missing` are planned too, but have no record."""
    folder.mkdir(parents=True)
    environment = Environment(
        source_sha256="5" * 64,
        constraints_sha256="c" * 64,
        commit="0170c5f0000000000000000000000000000000ab",
        dirty=False,
        platform="Linux-6.1-x86_64",
        python="3.11.2",
        cpu="AMD EPYC 7B13",
        cores=2,
        threads=2,
        memory_bytes=16_000_000_000,
        gpu=None,
        versions={"torch": "2.15.0", "diffusers": "0.42.1", "numpy": "2.4.6"},
    )
    plan = [
        PlannedCell(
            cell=one.cell, system=one.system, knobs=one.knobs, seconds=20.0, bytes=400_000, flags=one.flags
        )
        for one in (*records, *missing)
    ]
    made: dict[str, Any] = {
        "run": folder.name,
        "suite": "lab",
        "question": {"name": "lab", "prompts": {"split": "test", "count": 64}},
        "command": "python -m bench run bench/suites/lab.yaml",
        "started": STARTED,
        "finished": None if missing else STARTED.replace(minute=4),
        "fingerprint": "f" * 16,
        "environment": environment,
        "plan": tuple(plan),
        "predicted": Budget(cells=len(plan), seconds=200.0, bytes=4_000_000),
        "measured": None if missing else Budget(cells=len(plan), seconds=231.0, bytes=3_100_000),
    }
    Manifest(**{**made, **fields}).write(folder)
    store = Store(folder)
    for number, one in enumerate(records):
        store.append(with_clips(folder, one, number) if clips and one.outcome == "ok" else one)
    return folder


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The makers of this file: with the importlib mode of pytest, tests cannot import a conftest."""
    return SimpleNamespace(
        record=record,
        append=lambda folder, one: Store(folder).append(one),
        failed=failed,
        score=score,
        scores=scores,
        sweep=sweep,
        run=write_run,
        clip=clip_bytes,
        STEPS=STEPS,
    )


@pytest.fixture(scope="session")
def run_with_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "20261123-180000", sweep(), clips=True)
