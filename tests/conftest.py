"""Rules for every test: no network, no judgement of wall time, `gpu` tests only where there is an accelerator."""

import os

import pytest
from hypothesis import HealthCheck, settings

# Read by huggingface_hub at import: a test that reaches for the hub fails at once instead of hanging.
os.environ["HF_HUB_OFFLINE"] = "1"
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
