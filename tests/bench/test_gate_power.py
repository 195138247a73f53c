import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from bench import gate_intervals
from bench.__main__ import app
from bench.baselines import fake
from bench.baselines.fake import Drifting
from bench.baselines.fake_clock import CLOCKS, Clock, factors, linear
from bench.errors import SuiteError
from bench.gate import config
from bench.gate_policy import Policy, Restart, decide, log_ratio
from bench.gate_power import CELLS, OURS, PAIRS, Tally, Traces, decisions, draw, paired, simulate
from bench.gate_rivals import asv, pytest_benchmark, rolling_median
from bench.measure import Stopwatch
from bench.systems import Request

POLICY = Policy()
NOISY = {name: CLOCKS[name] for name in ("linear drift", "sine drift", "random walk")}


@pytest.mark.parametrize("clock", ["jitter", "heavy tails", "placement", "everything"])
@pytest.mark.parametrize("slowdown", [0.0, 0.04])
def test_what_is_simulated_is_what_decides(clock: str, slowdown: float) -> None:
    base, head = paired(draw(CLOCKS[clock], np.random.default_rng(0), 20, 24), slowdown)
    found = decisions(base, head, POLICY, CELLS)
    for gate in range(20):
        restarts = [
            Restart(tuple(b), tuple(h)) for b, h in zip(base[gate].tolist(), head[gate].tolist(), strict=True)
        ]
        one = decide(restarts, POLICY, cells=CELLS)
        assert (one.verdict == "FAIL", one.verdict == "PASS") == (found.fails[gate], found.passes[gate])
        assert one.restarts == found.restarts[gate]


def test_what_is_simulated_is_the_shipped_gate() -> None:
    shipped = config.read(config.DEFAULT)
    assert {cell.pairs for cell in shipped.cells.values()} == {PAIRS}
    assert len(shipped.cells) == CELLS
    assert shipped.policy.model_copy(update={"absolute_seconds": 0.0}) == POLICY


def test_balanced_order_cancels_a_drift() -> None:
    base, head = paired(draw(Clock("", (linear,)), np.random.default_rng(0), 5, 12), 0.0)
    assert not np.allclose(base, head, rtol=1e-5, atol=0)
    np.testing.assert_allclose(log_ratio(base, head), 0, atol=1e-12)


def test_a_restart_is_summed_up_by_its_middle() -> None:
    base, head = paired(draw(CLOCKS["everything"], np.random.default_rng(0), 3, 12), 0.0)
    expected = stats.trim_mean(np.log(head / base), 0.25, axis=-1)
    np.testing.assert_allclose(log_ratio(base, head), expected)


def test_each_block_is_used_once() -> None:
    blocks = np.arange(2 * 16.0).reshape(1, 2, 16)
    base, head = (np.log(side) for side in paired(Traces(blocks, np.zeros((1, 2, 2))), 0.0))
    np.testing.assert_allclose(base[0, 0], [0, 3, 4, 7, 8, 11, 12, 15], atol=1e-9)
    np.testing.assert_allclose(base[0, 1], [17, 18, 21, 22, 25, 26, 29, 30])
    assert sorted(np.concatenate([base, head], axis=None).round()) == list(range(32))


def test_false_alarms_and_power_under_drift() -> None:
    """Seeded: at 3 % jitter and 5 % drift none of 600 fails, and 5 % more is always seen."""
    ours = {(t.clock, t.slowdown): t for t in simulate(600, 7, POLICY, clocks=NOISY) if t.rule == OURS}
    for name in NOISY:
        assert ours[name, 0.0].fails == 0
        assert ours[name, 0.0].upper <= 0.005
        assert ours[name, 0.05].rate >= 0.99
        assert ours[name, 0.10].rate == 1


def test_simulations_repeat_themselves() -> None:
    few = {"everything": CLOCKS["everything"]}
    told: list[str] = []
    first = list(simulate(40, 1, POLICY, told.append, few))
    assert first == list(simulate(40, 1, POLICY, clocks=few))
    assert first != list(simulate(40, 2, POLICY, clocks=few))
    assert told == ["everything"]


def test_upper_bound() -> None:
    assert Tally("c", OURS, 0.0, 1000, 0).upper == pytest.approx(1 - 0.05**0.001)
    assert Tally("c", OURS, 0.0, 10, 10).upper == 1


def test_rivals_follow_their_rules() -> None:
    machine, levels = CLOCKS["jitter"].machine_logs(np.random.default_rng(0), 1, 396), np.zeros((1, 24, 2))
    machine -= machine.mean()
    for rule, limit in ((pytest_benchmark, 0.05), (asv, 0.10), (rolling_median, 0.08)):
        assert not rule(machine, levels, limit - 0.02)[0]
        assert rule(machine, levels, limit + 0.02)[0]
    # Too few blocks for p < 0.002, however slow.
    assert not asv(machine[:, :8], levels, 1.0)[0]


def test_pairs_are_not_evidence() -> None:
    """Where processes differ, an interval over pairs is wrong ten times too often; that over restarts is not."""
    rows = gate_intervals.compare(400, 0, machines=["rare layout"])
    wrong = {row.method: row.errors / row.gates for row in rows if row.restarts == 24}
    assert wrong["t of pairs"] > 10 * gate_intervals.ERROR
    assert wrong["order statistics of restarts"] <= 2 * gate_intervals.ERROR


@pytest.mark.parametrize("name", CLOCKS)
def test_clocks(name: str) -> None:
    clock = CLOCKS[name]
    rng = np.random.default_rng(0)
    machine, level = clock.machine_logs(rng, 200, 64), clock.level_logs(rng, 200, 6)
    assert machine.shape == (200, 64)
    assert level.shape == (200, 6)
    assert np.isfinite(machine).all()
    assert abs(machine).max() <= 2.5
    # Base and head are exchangeable: neither side is faster.
    assert abs((level[:, ::2] - level[:, 1::2]).mean()) < 0.004


def test_clocks_repeat_themselves() -> None:
    first = factors("rare layout", 3, 0, 32)
    np.testing.assert_array_equal(first, factors("rare layout", 3, 0, 32))
    other = factors("rare layout", 3, 1, 32) / first
    np.testing.assert_allclose(other, other[0])  # the same machine, another level
    assert other[0] != 1
    with pytest.raises(SuiteError, match="did you mean 'jitter'"):
        Drifting(clock="jiter")


def test_the_fake_system_follows_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(fake.time, "sleep", slept.append)
    system = Drifting(latency=0.5, clock="steal", clock_seed=4, slowdown=0.1)
    system.load()
    for _ in range(2):
        system.generate([Request(0, "a", 0)], Stopwatch())
    np.testing.assert_allclose(slept, 0.5 * 1.1 * factors("steal", 4, 0, fake.CLOCK_STEPS)[:8])


def test_the_fake_system_grows() -> None:
    system = Drifting(memory=1, growth=1_000_000)
    system.load()
    tracemalloc.start()
    try:
        for _ in range(3):
            system.generate([Request(0, "a", 0)], Stopwatch())
        assert 3_000_000 <= tracemalloc.get_traced_memory()[0] < 3_200_000
    finally:
        tracemalloc.stop()


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    path = tmp_path / "power.json"
    done = CliRunner().invoke(app, ["gate-power", "--gates", "2", "--json", str(path)])
    assert done.exit_code == 0, done.output
    assert "our policy, one cell of 3, 2 gates a number" in done.output
    answer = json.loads(path.read_text("utf-8"))
    assert {row["clock"] for row in answer["rows"]} == set(CLOCKS)
    assert answer["policy"]["restarts"] == [12, 18, 24]
    row = answer["rows"][0]
    assert (row["rule"], row["gates"], row["fails"]) == (OURS, 2, 0)
    assert row["upper95"] == pytest.approx(1 - 0.05**0.5)


def test_the_command_compares_methods() -> None:
    done = CliRunner().invoke(app, ["gate-power", "--gates", "2", "--methods"], env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    assert "signed rank of restarts" in done.output


def test_the_command_refuses_a_missing_folder(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["gate-power", "--json", str(tmp_path / "none" / "x.json")])
    assert done.exit_code == 2
    assert "does not exist" in done.stderr
