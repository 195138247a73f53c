import pytest

from bench.records import RANDOM_WEIGHTS, AnalyticRow, write_samples
from reports.analytic import tables
from reports.build import build
from reports.load import load


def row(system="peer", **changes):
    fields = {
        "system": system,
        "setting": "480×832×81, 50 steps × 2 passes",
        "parameters": 1_418_996_800,
        "vae_parameters": 126_892_531,
        "parameter_bytes": 3_091_778_662,
        "claimed": "1.3B",
        "deviation_from_claim": 0.092,
        "deviation_from_checkpoint": 0.0,
        "video_tokens": 32_760,
        "other_tokens": 512,
        "pass_flops": 2.83e14,
        "attention_share": 0.71,
        "passes": 100,
        "clip_flops": 2.83e16,
        "clip_seconds": 5.06,
        "floor_seconds": {"H100 SXM": 28.6, "RTX 4090": 171.0},
        "source": "arXiv 2503.20314",
    }
    return AnalyticRow(**{**fields, **changes})


def write(make, folder, rows, **changes):
    """A run with a cell and an analytic record of `rows`."""
    record = make.record("cost by arithmetic", None, role="reference", kind="analytic", scores={}, stages={})
    record = record.model_copy(update={"real_time_factor": None, "memory": None, "knobs": {}, **changes})
    make.run(folder, [make.record(), record])
    sidecar = write_samples(folder, record.cell, [one.model_dump(mode="json") for one in rows])
    make.append(folder, record.model_copy(update={"samples": sidecar}))
    return folder


@pytest.fixture
def counted(make, tmp_path):
    return write(make, tmp_path / "run", [row(), row("other", floor_seconds={"H100 SXM": 1.0})])


def test_the_report_shows_the_table_with_its_sources(counted, tmp_path):
    html = build([counted], tmp_path / "report.html").read_text("utf-8")
    section = html.split('<section id="analytic"')[1].split("</section>")[0]
    assert "1,418,996,800" in section
    assert "28.6" in section
    assert "arXiv 2503.20314" in section
    assert "a denoiser here deviates by +9.2%" in section
    assert 'href="#analytic"' in html
    assert "1 of 1 cell recorded" in html  # it is no row among the systems


def test_devices_are_those_that_all_rows_know(counted):
    (table,), problems = tables(load([counted]))
    assert table.devices == ["H100 SXM"]
    assert not problems


def test_equal_tables_of_two_runs_stand_once(counted, make, tmp_path):
    second = write(make, tmp_path / "again", [row(), row("other", floor_seconds={"H100 SXM": 1.0})])
    assert len(tables(load([counted, second]))[0]) == 1


def test_a_lost_or_failed_table_is_a_caveat(counted, make, tmp_path):
    (record,) = (one for one in load([counted])[0].records if one.kind == "analytic")
    (counted / record.samples.path).write_text("{}\n")
    assert "cannot be read" in tables(load([counted]))[1][0]
    make.append(
        counted, record.model_copy(update={"outcome": "oom", "message": "too small", "samples": None})
    )
    html = build([counted], tmp_path / "report.html").read_text("utf-8")
    assert "No analytic table: oom: too small" in html
    assert 'id="analytic"' not in html


def test_random_weights_are_hatched_and_named_everywhere(make, tmp_path):
    cells = [make.record(), make.record("peer", flags=(RANDOM_WEIGHTS,), scores={})]
    html = build([make.run(tmp_path / "run", cells)], tmp_path / "report.html").read_text("utf-8")
    assert html.count('<tr class="hatched">') == 1
    table = html.split('<section id="table"')[1].split("</section>")[0]
    assert "8\u00a0steps (random weights)</a>" in table
    assert "random-weights</span>" in table
    stages = html.split('<section id="time"')[1].split("</section>")[0]
    assert "(random weights)" in stages
    assert "<pattern" in stages  # the bars are hatched
    plain = build([make.run(tmp_path / "plain", cells[:1])], tmp_path / "plain.html").read_text("utf-8")
    assert "random weights" not in plain
    assert "<pattern" not in plain
