import dataclasses
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from typer.testing import CliRunner

from bench import analytic, devices, flops, worker
from bench.__main__ import app
from bench.baselines.peers import Peer
from bench.baselines.recipes import RECIPES
from bench.isolation import Announcer
from bench.jobs import RECORD, Job
from bench.measure import Stopwatch
from bench.records import AnalyticRow, Record
from bench.suite import parse
from bench.systems import Request
from magic141.presets import LAB

ROOT = Path(__file__).parents[2]
FAST = "wan-2.1-1.3b"


def counted(call: Any) -> float:
    """FLOPs that PyTorch's own counter sees, with attention as the matrix products that it is."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        call()
    return float(counter.get_total_flops())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == FAST else pytest.mark.slow) for name in RECIPES]
)
def test_the_formula_agrees_with_the_counter(name: str) -> None:
    """On the first pass that the tiny pipeline really makes, whatever arguments it makes it with."""
    recipe = RECIPES[name]
    peer = Peer(system=name, mode="tiny", precision="fp32")
    peer.load()
    transformer = peer._pipeline.transformer
    forward, seen = transformer.forward, []

    def watched(*args: Any, **kwargs: Any) -> Any:
        result = []
        total = counted(lambda: result.append(forward(*args, **kwargs)))
        text = kwargs["encoder_hidden_states"].shape
        seen.append((total / text[0], text[1]))
        return result[0]

    transformer.forward = watched
    peer.generate([Request(0, "a red circle on grey stripes", 1)], Stopwatch())
    total, text = seen[0]
    video = recipe.video_tokens(*peer.size)
    streams = flops.tokens(video, text, recipe.audio_tokens(peer.size[2]), recipe.timesteps(video))
    assert flops.count(transformer, recipe.family, streams).total == pytest.approx(total, rel=0.02)


def test_the_formula_agrees_with_the_counter_on_ours() -> None:
    import torch

    from magic141 import Magic141Transformer3DModel

    model = Magic141Transformer3DModel(**dataclasses.asdict(LAB.transformer)).eval()

    def call() -> None:
        model(
            hidden_states=torch.zeros(1, 33, 9, 8, 8),
            timestep=torch.tensor([500.0]),
            encoder_hidden_states=torch.zeros(1, 56, 128),
            pooled_projections=torch.zeros(1, 128),
        )

    formula = flops.count(model, "magic141", flops.tokens(9 * 4 * 4, 56))
    assert formula.total == pytest.approx(counted(call), rel=0.01)


def test_a_layer_without_a_rule_is_an_error() -> None:
    import torch

    model = torch.nn.ModuleDict({"new_thing": torch.nn.Linear(2, 2)})
    with pytest.raises(ValueError, match="no rule of 'ltx' says which tokens pass new_thing"):
        flops.count(model, "ltx", flops.tokens(1, 1))


def test_a_floor_is_arithmetic_or_memory_whichever_is_more() -> None:
    device = devices.Device("d", 100.0, 10.0, "")
    assert devices.floor(device, 1000.0, 1.0) == 10.0
    assert devices.floor(device, 1000.0, 200.0) == 20.0


def test_our_13b_costs_what_the_design_says() -> None:
    """DESIGN.md, section 6: 1.10 PFLOP a pass at 368×640×129 and 3.84 at 544×960×121, of which 78 % is attention."""
    small, _, large, compressed, lab = map(analytic._row, analytic._ours())
    assert small.video_tokens == 30_360
    assert small.pass_flops == pytest.approx(1.10e15, rel=0.01)
    assert large.pass_flops == pytest.approx(3.84e15, rel=0.005)
    assert large.attention_share == pytest.approx(0.78, abs=0.01)
    assert large.floor_seconds["H100 SXM, 790 reached"] == pytest.approx(19.4, rel=0.005)
    assert compressed.clip_flops == pytest.approx(0.67e15, rel=0.01)
    assert lab.video_tokens == 9 * 4 * 4


def test_the_lab_has_the_tokens_that_its_conditions_have() -> None:
    from magic141.conditioning import IMAGE_TOKENS, TEXT_LENGTH

    assert analytic.LAB_TOKENS == TEXT_LENGTH + IMAGE_TOKENS


@pytest.fixture
def row() -> AnalyticRow:
    return analytic._row(analytic._peer(RECIPES[FAST]))


def test_a_published_count_is_met(row: AnalyticRow) -> None:
    assert row.parameters == 1_418_996_800
    assert row.deviation_from_checkpoint == 0
    assert row.video_tokens == 32_760
    assert row.passes == 100


@pytest.mark.slow
def test_all_counts_are_those_published_and_the_page_says_so() -> None:
    rows = analytic.rows()
    exact = [row.deviation_from_checkpoint for row in rows if row.deviation_from_checkpoint is not None]
    assert len(exact) == len(RECIPES)
    assert all(abs(deviation) < 0.01 for deviation in exact)
    page = (ROOT / "docs" / "systems.md").read_text("utf-8")
    assert page == analytic.markdown(rows), "python -m bench analytic --markdown docs/systems.md"


def suite(**fields: object) -> Any:
    systems = {"fake": {"adapter": "bench.baselines.fake:Fake"}}
    head = {"scorer": "bench.baselines.fake:SCORER", "metrics": ["brightness"]}
    return parse({"name": "s", "systems": systems, "prompts": {"texts": ["a"]}, **head, **fields}, "s")


def test_the_table_is_one_more_question_and_changes_no_other() -> None:
    cells = suite(analytic=True).cells()
    assert [cell.id for cell in cells[:-1]] == [cell.id for cell in suite().cells()]
    assert cells[-1].kind == "analytic"


def test_the_worker_writes_the_rows(
    tmp_path: Path, row: AnalyticRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analytic, "rows", lambda: [row])
    asked = suite(analytic=True)
    job = Job(asked.cells()[-1], asked, "f", 1, "command", tmp_path)
    worker.run_cell(job, Announcer(Mock(), Mock()))
    record = Record.model_validate_json((tmp_path / RECORD).read_bytes())
    assert (record.kind, record.outcome, record.message) == ("analytic", "ok", "")
    assert record.samples is not None
    line = (tmp_path / record.samples.path).read_text("utf-8")
    assert AnalyticRow.model_validate_json(line) == row


def test_the_command_prints_and_writes(
    tmp_path: Path, row: AnalyticRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analytic, "rows", lambda: [row])
    files = tmp_path / "rows.json", tmp_path / "page.md"
    words = ["analytic", "--json", str(files[0]), "--markdown", str(files[1])]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "250"})
    assert result.exit_code == 0, result.output
    assert "1.42 B" in result.output
    assert [AnalyticRow.model_validate(one) for one in json.loads(files[0].read_text("utf-8"))] == [row]
    assert "| wan-2.1-1.3b | 1,418,996,800 | 1.3B | +9.2% | +0.00% |" in files[1].read_text("utf-8")
