import pytest

from bench.records import (
    CLAIMS,
    END_TO_END,
    ClaimRow,
    ClaimsTable,
    Curve,
    CurvePoint,
    Score,
    StepRow,
    Timing,
)
from reports.build import build
from reports.claims import claims
from reports.load import load


def row(name, verdict, **fields):
    texts = {"paper": "0.81", "protocol": "a fair one", "sample": "64 prompts", "threshold": "above 0"}
    return ClaimRow(id=name, claim=f"claim {name}", verdict=verdict, **texts, **fields)


@pytest.fixture
def claimed(make, tmp_path):
    """A run, and a claims table beside it: one claim with a figure, one that failed, one not run."""
    points = tuple(CurvePoint(x=10 * k, y=1 / k, low=0.9 / k, high=1.1 / k) for k in (1, 2, 4))
    curves = (Curve(name="image-to-video", points=points), Curve(name="text-to-video", points=points[:2]))
    figure = {"x_label": "training samples", "y_label": "remaining gap", "curves": curves}
    rows = (
        row("a1", "reproduced", value=0.5, low=0.4, high=0.6, **figure),
        row("b1", "not reproduced", value=-0.1, low=-0.3, high=0.1),
        row("d1", "not run yet", note="0 of 3 trials done"),
    )
    folder = make.run(tmp_path / "run", make.sweep())
    shape = Score(value=0.875, low=0.8, high=0.9, n=64, protocol="p", better="higher")
    steps = (
        StepRow(model="lab", steps=56, passes=112, scores={"accuracy-shape": shape}),
        StepRow(model="dmd, 480 samples", steps=4, passes=4, scores={}),
    )
    (tmp_path / CLAIMS).write_text(ClaimsTable(scale="quick", rows=rows, steps=steps).model_dump_json())
    return folder


def test_the_report_shows_claims_verdicts_and_curves(claimed, tmp_path):
    html = build([claimed], tmp_path / "report.html").read_text("utf-8")
    section = html[html.index('<section id="claims"') :].partition("</section>")[0]
    for text in ("claim a1", "Scale of these runs: quick", "0 of 3 trials done", "a fair one"):
        assert text in section
    assert section.count("<svg") == 1
    assert "remaining gap over training samples. image-to-video: 1.00, 0.500, 0.250" in section
    assert section.count('class="badge ok"') == section.count('class="badge bad"') == 1
    assert 'href="#claims"' in html
    steps = section.partition("What steps make")[2]
    assert "<td>112</td><td>0.88" in steps
    assert "dmd, 480 samples</th><td>4</td><td>4</td><td>–</td>" in steps


def test_without_claims_there_is_no_section(make, tmp_path):
    html = build([make.run(tmp_path / "run", make.sweep())], tmp_path / "report.html").read_text("utf-8")
    assert 'id="claims"' not in html


@pytest.mark.parametrize(("teacher", "shown"), [("0123abcd", True), ("ffffffff", False), ("", False)])
def test_published_claims_are_shown_with_the_teacher_that_they_are_of(
    make, tmp_path, monkeypatch, teacher, shown
):
    published = tmp_path / "published" / CLAIMS
    published.parent.mkdir()
    table = ClaimsTable(scale="full", teacher=teacher, rows=(row("b1", "not run yet"),))
    published.write_text(table.model_dump_json())
    monkeypatch.setattr("reports.claims.PUBLISHED_CLAIMS", published)
    records = [make.record("teacher", 4, weights_sha256="0123abcd" + 56 * "0")]
    html = build([make.run(tmp_path / "runs" / "run", records)], tmp_path / "report.html").read_text("utf-8")
    assert ('id="claims"' in html) == shown
    assert ("came with the repository" in html) == shown


@pytest.mark.parametrize(
    ("scale", "teacher", "shown"),
    [("quick", "0123abcd", "full"), ("full", "0123abcd", "beside"), ("full", "ffffffff", "full")],
)
def test_what_lies_beside_a_run_gives_way_where_it_says_less_or_is_of_other_weights(
    make, tmp_path, monkeypatch, scale, teacher, shown
):
    published = tmp_path / "published" / CLAIMS
    published.parent.mkdir()
    table = ClaimsTable(scale="full", teacher="0123abcd", rows=(row("full", "not run yet"),))
    published.write_text(table.model_dump_json())
    monkeypatch.setattr("reports.claims.PUBLISHED_CLAIMS", published)
    beside = ClaimsTable(scale=scale, teacher=teacher, rows=(row("beside", "not run yet"),))
    records = [make.record("teacher", 4, weights_sha256="0123abcd" + 56 * "0")]
    runs = load([make.run(tmp_path / "runs" / "run", records)])
    (tmp_path / "runs" / CLAIMS).write_text(beside.model_dump_json())
    found, problems = claims(runs)
    assert [line.row.id for line in found.lines] == [shown]
    assert found.published == (shown == "full")
    assert not problems


def test_steps_have_the_latency_of_the_same_model_at_as_many_steps_and_passes(make, tmp_path):
    shared = {"model": "lab", "task": "text to video", "num_frames": 33, "batch_size": 1, "sparsity": "none"}
    failed = shared | {"num_inference_steps": 8, "guidance_scale": 2.0}
    records = [
        make.record(
            "teacher", steps, knobs=shared | {"num_inference_steps": steps, "guidance_scale": guidance}
        )
        for steps, guidance in ((4, 1.0), (8, 2.0))
    ]
    records.insert(0, make.failed("oom", "too large", knobs=failed))
    long = records[2].knobs | {"num_inference_steps": 16, "seconds": 60}
    records.append(make.record("long", 16, knobs=long))
    at_once = records[2].knobs | {"task": "text to video at once"}
    faster = Timing(median=0.1, low=0.09, high=0.11, n=5)
    records.append(make.record("at once", 8, knobs=at_once, stages={END_TO_END: faster}))
    solved = Timing(median=0.2, low=0.19, high=0.21, n=5)
    records.append(
        make.record(
            "solved",
            4,
            knobs=failed | {"num_inference_steps": 4, "solver": "unipc"},
            stages={END_TO_END: solved},
        )
    )
    folder = make.run(tmp_path / "run", records)
    steps = tuple(StepRow(model="lab", steps=n, passes=2 * n, scores={}) for n in (4, 8, 16))
    steps += (steps[1].model_copy(update={"task": "text to video at once"}),)
    steps += (steps[0].model_copy(update={"solver": "unipc"}),)
    table = ClaimsTable(scale="full", rows=(row("d1", "not run yet"),), steps=steps)
    (tmp_path / CLAIMS).write_text(table.model_dump_json())
    found, _ = claims(load([folder]))
    assert [step.latency for step in found.steps] == [
        None,
        records[2].stages[END_TO_END],
        None,
        faster,
        solved,
    ]
    assert found.steps[-1].row.name == "lab, unipc"
    assert '<th scope="col">latency</th>' in build([folder], tmp_path / "report.html").read_text("utf-8")


def test_a_damaged_table_is_a_caveat(claimed, tmp_path):
    (tmp_path / CLAIMS).write_text("{}")
    found, problems = claims(load([claimed]))
    assert found is None
    assert "cannot be read" in problems[0]


def test_names_between_backticks_are_code(claimed, tmp_path):
    table = ClaimsTable.model_validate_json((claimed.parent / CLAIMS).read_text())
    rows = (table.rows[0].model_copy(update={"protocol": "`lab` <asked> by `bench select`"}), *table.rows[1:])
    (claimed.parent / CLAIMS).write_text(table.model_copy(update={"rows": rows}).model_dump_json())
    page = build([claimed], tmp_path / "report.html").read_text("utf-8")
    assert "<code>lab</code> &lt;asked&gt; by <code>bench select</code>" in page
