import re

import pytest
from typer.testing import CliRunner

from reports.__main__ import app


def call(*arguments):
    result = CliRunner().invoke(app, ["build", *map(str, arguments)])
    return result.exit_code, re.sub(r"\s+", " ", result.output)


def test_builds_and_names_the_file(make, tmp_path):
    code, output = call(make.run(tmp_path / "run", [make.record()]), "-o", tmp_path / "new" / "r.html")
    assert code == 0
    assert "r.html" in output
    assert (tmp_path / "new" / "r.html").read_text(encoding="utf-8").endswith("</html>\n")


def test_the_file_named_latest_stands_for_its_run(make, tmp_path):
    make.run(tmp_path / "results" / "one", [make.record()])
    (tmp_path / "results" / "latest").write_text("one\n")
    assert call(tmp_path / "results" / "latest", "-o", tmp_path / "r.html")[0] == 0


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "is no run: it has no run.json"),
        (lambda folder: folder.write_text("nowhere"), "neither a run folder nor a file that names one"),
        (lambda folder: folder.write_text("{" * 5000), "neither a run folder nor a file that names one"),
        (lambda folder: folder.write_bytes(b"\xff\xfe"), "neither a run folder nor a file that names one"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, prepare, message):
    prepare(tmp_path / "run")
    code, output = call(tmp_path / "run", "-o", tmp_path / "r.html")
    assert code == 2
    assert message in output
    assert "Traceback" not in output
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize("name", ["run.json", "records.jsonl"])
def test_another_schema_version_is_refused(make, tmp_path, name):
    folder = make.run(tmp_path / "run", [make.record()])
    path = folder / name
    path.write_text(re.sub(r'"schema_version": ?1', '"schema_version":9', path.read_text(encoding="utf-8")))
    code, output = call(folder, "-o", tmp_path / "r.html")
    assert code == 2
    assert "schema version" in output
    assert not (tmp_path / "r.html").exists()


def test_a_damaged_record_is_refused_and_a_torn_last_line_is_not(make, tmp_path):
    folder = make.run(tmp_path / "run", [make.record(steps=2), make.record(steps=4)])
    path = folder / "records.jsonl"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole[:-40], encoding="utf-8")
    assert call(folder, "-o", tmp_path / "r.html")[0] == 0
    path.write_text("nonsense\n" + whole, encoding="utf-8")
    code, output = call(folder, "-o", tmp_path / "s.html")
    assert code == 2
    assert "records.jsonl:1 is no record" in output


@pytest.mark.parametrize("output", [".", "file/r.html"])
def test_an_output_that_cannot_be_written_is_refused(make, tmp_path, output):
    (tmp_path / "file").write_text("")
    code, message = call(make.run(tmp_path / "run", [make.record()]), "-o", tmp_path / output)
    assert code == 2
    assert "cannot be written" in message


def test_run_and_output_are_asked_for(tmp_path):
    assert call("-o", tmp_path / "r.html")[0] == 2
    assert call(tmp_path)[0] == 2
