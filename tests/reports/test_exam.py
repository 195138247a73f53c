import pytest

from bench.records import ExamRow, write_samples
from reports.build import build
from reports.exam import exams
from reports.load import load

VERDICTS = {
    "watchful": ("sees", "sees"),
    "half": ("sees", "blind"),
    "gullible": ("sees", "fooled"),
    "asleep": ("blind", "blind"),
}


@pytest.fixture
def examined(make, tmp_path):
    """A run with a cell and an exam of four scores under two harms."""
    exam = make.record("exam of the scores", None, role="reference", kind="exam", scores={}, stages={})
    exam = exam.model_copy(update={"real_time_factor": None, "memory": None, "knobs": {"clips": 12}})
    rows = [
        ExamRow(
            score=score,
            corruption=harm,
            values=(1.0, 2.0, 4.0),
            monotone=1,
            signal=7.5,
            n=64,
            verdict=verdict,
        )
        for score, verdicts in VERDICTS.items()
        for harm, verdict in zip(("blur", "freeze"), verdicts, strict=True)
    ]
    folder = make.run(tmp_path / "run", [make.record(), exam])
    sidecar = write_samples(folder, exam.cell, [row.model_dump(mode="json") for row in rows])
    (folder / "records.jsonl").unlink()
    for one in (make.record(), exam.model_copy(update={"samples": sidecar})):
        make.append(folder, one)
    return folder


def test_scores_that_harm_improves_are_named_and_the_others_ranked(examined):
    (exam,), problems = exams(load([examined]))
    assert not problems
    assert exam.harms == ("blur", "freeze")
    assert exam.deserving == ["watchful (2)", "half (1)"]
    assert exam.fooled == ["gullible (by freeze)"]


def test_the_report_shows_every_answer_with_its_values(examined, tmp_path):
    html = build([examined], tmp_path / "report.html").read_text("utf-8")
    assert html.count('<td class="sees"') == 4
    assert html.count('<td class="fooled"') == 1
    assert "truth, then growing harm: 1" in html
    assert "gullible (by freeze)" in html
    assert 'href="#exam"' in html


def test_an_exam_is_no_row_among_the_systems(examined, tmp_path):
    html = build([examined], tmp_path / "report.html").read_text("utf-8")
    assert "1 of 1 cell recorded" in html


def test_a_lost_or_failed_exam_is_a_caveat(examined, make, tmp_path):
    (exam,) = (record for record in load([examined])[0].records if record.kind == "exam")
    (examined / exam.samples.path).write_text("{}\n")
    assert "cannot be read" in exams(load([examined]))[1][0]
    failed = exam.model_copy(update={"outcome": "weights-missing", "message": "no judge", "samples": None})
    make.append(examined, failed)
    html = build([examined], tmp_path / "report.html").read_text("utf-8")
    assert "No exam of the scores: weights-missing: no judge" in html
    assert 'id="exam"' not in html


def test_without_an_exam_there_is_no_section(make, tmp_path):
    html = build([make.run(tmp_path / "run", make.sweep())], tmp_path / "report.html").read_text("utf-8")
    assert 'id="exam"' not in html
