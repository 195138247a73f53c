import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import measure
from bench.measure import EMPTY_LIMIT
from bench.records import NOT_MEASURABLE


def test_stages_are_recorded_in_order() -> None:
    edges = []
    stopwatch = measure.Stopwatch(lambda: edges.append("sync"))
    with stopwatch("whole"):
        for _ in range(3):
            with stopwatch("part"):
                time.sleep(0.002)
    assert {name: len(values) for name, values in stopwatch.samples.items()} == {"part": 3, "whole": 1}
    assert stopwatch.samples["whole"][0] >= sum(stopwatch.samples["part"]) >= 0.006
    assert len(edges) == 8  # the device is waited for at both edges of each of the four
    assert stopwatch.current == []


def test_a_broken_stage_stays_named() -> None:
    stopwatch = measure.Stopwatch()
    with pytest.raises(KeyError), stopwatch("whole"), stopwatch("part"):
        raise KeyError
    assert stopwatch.current == ["whole", "part"]
    assert stopwatch.samples == {}


def test_an_empty_region_costs_little() -> None:
    # The best of several, because a busy machine makes any one of them long.
    found = [measure.empty_region_seconds(rounds=200) for _ in range(10)]
    assert min(found) > 0
    assert min(found) <= EMPTY_LIMIT


@given(st.lists(st.floats(1e-6, 1e3), min_size=5, max_size=30))
def test_the_interval_holds_the_median(samples: list[float]) -> None:
    found = measure.timing(samples)
    assert found.low is not None
    assert found.high is not None
    assert min(samples) <= found.low <= found.median <= found.high <= max(samples)
    assert found == measure.timing(samples)


def test_four_samples_have_no_interval() -> None:
    found = measure.timing([1.0, 3.0, 2.0, 2.0])
    assert (found.median, found.low, found.high, found.n) == (2.0, None, None, 4)


def test_the_interval_covers_the_true_median() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        found = measure.timing(list(rng.exponential(size=30)))
        hits += (found.low or 0) <= np.log(2) <= (found.high or 0)
    assert 0.92 <= hits / 500 <= 0.98


FREED_ARRAY = """
import numpy as np
from bench import measure
from bench.measure import EMPTY_LIMIT
baseline = measure.anonymous_bytes()
peak = measure.PeakResident(baseline)
array = np.ones(50_000_000, np.uint8)
del array
print(peak.read(), baseline, measure.PeakResident(0).read())
"""


def test_peak_resident_sees_a_freed_array() -> None:
    # In a process of its own, as in a cell: after many tests an allocator may give pages back at any moment.
    output = subprocess.run([sys.executable, "-c", FREED_ARRAY], capture_output=True, text=True, check=True)
    if NOT_MEASURABLE in output.stdout:
        pytest.fail("peak resident memory is not measurable here: /proc/self/clear_refs cannot be written")
    found, baseline, after = map(int, output.stdout.split())
    assert 45e6 < found < 80e6
    assert after < baseline + 40e6  # the mark was reset


def test_peak_tensor_bytes_are_exact() -> None:
    import torch

    with measure.peak_tensor_bytes() as before:
        pass
    with measure.peak_tensor_bytes() as peaks:
        first = torch.zeros(2_000_000)
        second = first + 1  # both alive: 16 MB
        del first
        torch.zeros(1_000_000)  # 8 MB and 4 MB are less
    assert peaks[0] - before[0] == pytest.approx(16_000_000, abs=64)  # scalars are tensors too
    with measure.peak_tensor_bytes() as after:
        pass
    assert after[0] - before[0] == second.nbytes


def test_a_fake_tensor_holds_nothing() -> None:
    """A compiler leaves some behind: on the CPU, they say, and without an address."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with measure.peak_tensor_bytes() as before:
        pass
    with FakeTensorMode():
        fake = torch.empty(1_000_000)
    with measure.peak_tensor_bytes() as after:
        pass
    assert fake.device.type == "cpu"
    assert after == before


def test_memory_inside_fused_operators_is_seen() -> None:
    """The scratch of one operator, which a dispatch mode would not see."""
    import torch

    matrix = torch.randn(300, 300)
    with measure.peak_tensor_bytes() as before:
        pass
    with measure.peak_tensor_bytes() as inside:
        result = torch.linalg.inv(matrix)
    assert inside[0] - before[0] > result.nbytes


def test_memory_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(measure, "has_cuda", lambda: False)
    found = measure.memory(lambda stages: torch.ones(1000).sum(), measure.anonymous_bytes())
    assert found.cuda_allocated == found.cuda_reserved == found.nvml_process == NOT_MEASURABLE
    assert int(found.tensors) >= 4000


@pytest.mark.gpu
def test_memory_on_a_gpu_is_per_stage() -> None:
    import torch

    def generate(stages: measure.Stopwatch) -> None:
        with stages("large"):
            torch.ones(10_000_000, device="cuda")
        with stages("small"):
            torch.ones(1_000, device="cuda")

    found = measure.memory(generate, 0)
    assert found.cuda_by_stage["large"] >= 40_000_000 > found.cuda_by_stage["small"]
    assert found.cuda_by_stage["generation"] == found.cuda_allocated


def test_the_pace_of_windows() -> None:
    found = measure.windows([3.0, 1.0, 1.5, 4.0, 1.0, 0.5], 2)
    assert found.first_frame.samples == (3.0, 4.0)
    assert found.later is not None
    assert (found.later.median, found.later.n) == (1.0, 4)
    assert found.jitter == pytest.approx(np.std([1.0, 1.5, 1.0, 0.5]))
    assert found.slowest == 1.5
    alone = measure.windows([3.0, 4.0], 2)
    assert (alone.later, alone.jitter) == (None, None)


def test_weights_of_few_bits_count_by_what_they_hold() -> None:
    pytest.importorskip("torchao")
    import torch
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    with measure.peak_tensor_bytes() as before:
        pass
    layer = torch.nn.Sequential(torch.nn.Linear(512, 512, bias=False))
    quantize_(layer, Int8WeightOnlyConfig())
    with measure.peak_tensor_bytes() as after:
        pass
    assert 512 * 512 <= after[0] - before[0] < 512 * 512 * 1.1
