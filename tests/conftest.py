"""Rules for every test: no network, no judgement of wall time, `gpu` tests only where there is an accelerator."""

import os

import pytest
from hypothesis import HealthCheck, settings

# Read by huggingface_hub at import: a test that reaches for the hub fails at once instead of hanging.
os.environ["HF_HUB_OFFLINE"] = "1"
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    # Each worker has its share of the cores: more threads than cores wait for each other. Read by torch at import.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    # A worker is told a terminal of 80 columns, and consoles made at import would keep to that.
    os.environ.pop("COLUMNS", None)
    os.environ.pop("LINES", None)
# The same examples in every run, and no deadline: a busy machine is no bug.
settings.register_profile(
    "house", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("house")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wants_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not wants_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        config.hook.pytest_deselected(items=wants_gpu)
        items[:] = [item for item in items if item not in wants_gpu]
