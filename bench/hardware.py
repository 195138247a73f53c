"""The environment of a run: its fingerprint, and the precision it is good for. Imports no torch."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import runpy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import psutil

from bench.records import Environment
from magic141 import precision, source

ROOT = Path(__file__).resolve().parent.parent
VERSIONED = (
    *("torch", "diffusers", "transformers", "torchao", "numpy", "scipy"),
    *("torchmetrics", "open-clip-torch", "opencv-python-headless", "av"),
)
"""Distributions whose version can change a number."""
_OURS = tuple(ROOT / name for name in ("magic141", "bench", "evals", "reports", "tests"))
"""Packages of this repository. What else lies below `ROOT`, as a `.venv` does, is somebody's."""
_NOT_IN_A_NUMBER = (
    "magic141/train/",
    "magic141/weights/",
    "magic141/__main__.py",
    "magic141/command.py",
    "evals/__main__.py",
)
"""Weights are a part of the question, and training of neither question nor answer."""
_BENCH_FILES = (
    "analytic.py",
    "baselines",
    "cells.py",
    "contamination.py",
    "devices.py",
    "energy.py",
    "flops.py",
    "jobs.py",
    "latency.py",
    "longvideo_scorer.py",
    "measure.py",
    "nvml.py",
    "prompts.py",
    "quality.py",
    "scorers.py",
    "suite.py",
    "systems.py",
    "worker.py",
)


def environment(threads: int | None = None) -> Environment:
    """This machine and this source tree. `threads` overrides the default: every core the process may use."""
    constraints = ROOT / "constraints.txt"
    gpu = gpu_name()
    return Environment(
        source_sha256=source_sha256(),
        constraints_sha256=_text_sha256(constraints) if constraints.exists() else None,
        commit=source.git("rev-parse", "HEAD"),
        dirty=None if (status := source.git("status", "--porcelain")) is None else bool(status),
        platform=platform.platform(),
        python=platform.python_version(),
        cpu=_cpu_name(),
        cores=cores(),
        threads=threads or cores(),
        # Kernels differ by a few pages from boot to boot; the machine does not.
        memory_bytes=round(psutil.virtual_memory().total / 2**30) * 2**30,
        gpu=gpu,
        versions={name: version for name in VERSIONED if (version := _version(name))},
    )


def auto_precision() -> Literal["bf16", "fp32"]:
    """`bf16` where a CUDA device or the CPU (AMX, AVX-512 BF16) multiplies it natively, else `fp32`.

    Without such units bf16 on a CPU is emulated, and far slower than fp32.
    """
    if gpu_name() is not None:
        return "bf16" if (_gpu_capability() or 0) >= 8 else "fp32"
    return "bf16" if precision.native_bfloat16() else "fp32"


@cache
def matrix_flops() -> float:
    """FLOP/s of a float32 matrix product on this CPU, all threads, measured in a fraction of a second.

    For plans: two-core machines differ five-fold, and so does what a sweep takes on them.
    """
    side = 768
    a = np.ones((side, side), np.float32)
    a @ a  # threads start here
    began = perf_counter()
    for _ in range(3):
        a @ a
    return 3 * 2 * side**3 / (perf_counter() - began)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def gpu_name() -> str | None:
    """The first CUDA device, if there is one that the installed torch is built for. Asks NVML, not torch."""
    return _nvml_device()[0] if _torch_is_built_for_cuda() else None


def _gpu_capability() -> int | None:
    return _nvml_device()[1]


@cache
def _nvml_device() -> tuple[str | None, int | None]:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no driver, no library, no permission: all mean that there is no device to use
        return None, None
    try:
        device = _first_visible(pynvml, os.environ.get("CUDA_VISIBLE_DEVICES", "0"))
        return str(pynvml.nvmlDeviceGetName(device)), pynvml.nvmlDeviceGetCudaComputeCapability(device)[0]
    except (pynvml.NVMLError, ValueError):  # no such device, and CUDA then sees none
        return None, None
    finally:
        pynvml.nvmlShutdown()


def _first_visible(nvml: Any, visible: str) -> Any:
    """The device that CUDA calls 0, by what `CUDA_VISIBLE_DEVICES` says: an index, or the UUID of a card or a slice.

    Cards of several kinds are counted by NVML as CUDA does with `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
    """
    first = visible.split(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")):
        return nvml.nvmlDeviceGetHandleByUUID(first)
    return nvml.nvmlDeviceGetHandleByIndex(int(first))


def _torch_is_built_for_cuda() -> bool:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    return bool(runpy.run_path(str(Path(spec.origin).with_name("version.py"))).get("cuda"))


def source_sha256() -> str:
    """Hash of the files that can change a number: models, data, scores with their judges, and the clocks."""
    roots = [ROOT / "magic141", ROOT / "evals", *(ROOT / "bench" / name for name in _BENCH_FILES)]
    digest = hashlib.sha256()
    for path in sorted(path for root in roots for path in ([root] if root.is_file() else root.rglob("*"))):
        name = path.relative_to(ROOT).as_posix()
        if path.is_dir() or "__pycache__" in name or name.startswith(_NOT_IN_A_NUMBER):
            continue
        # Line endings of a text differ between checkouts on Windows and elsewhere; the text does not.
        content = (
            _text_sha256(path) if path.suffix == ".py" else hashlib.sha256(path.read_bytes()).hexdigest()
        )
        digest.update(f"{content}  {name}\n".encode())
    return digest.hexdigest()


def foreign_sha256(*paths: str) -> str | None:
    """Hash of the Python files behind `package.module:Name`s of other repositories; None where all are of this one.

    Of a package all its files count, because an adapter rests on its neighbours; of a lone module its own.
    """
    lines = {
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {name}\n"
        for module in {path.partition(":")[0].partition(".")[0] for path in paths}
        for name, file in _foreign_files(module)
    }
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest() if lines else None


def _foreign_files(module: str) -> Iterator[tuple[str, Path]]:
    """(name, file) of every Python file of a top-level module that is none of ours."""
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:  # a module without a file, made by a program
        spec = None
    if spec is None:
        return
    for folder in map(Path, spec.submodule_search_locations or ()):
        if folder.resolve() not in _OURS:
            files = (file for file in folder.rglob("*.py") if file.is_file())
            yield from ((f"{module}/{file.relative_to(folder).as_posix()}", file) for file in files)
    if not spec.submodule_search_locations and spec.origin is not None and spec.origin.endswith(".py"):
        yield module, Path(spec.origin)


def _text_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_text(encoding="utf-8").encode()).hexdigest()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
