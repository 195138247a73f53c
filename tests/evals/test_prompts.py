import unicodedata

import pytest

from evals.prompts import Origin, match, read_prompts
from magic141.errors import InputError


def test_csv_and_jsonl_say_the_same(tmp_path):
    table, lines = tmp_path / "p.csv", tmp_path / "p.jsonl"
    table.write_text('file,prompt,seed\na/x.mp4,"a ring, red",3\ny.gif,a star,\n', encoding="utf-8")
    lines.write_text(
        '{"path": "a/x.mp4", "caption": "a ring, red", "seed": 3}\n\n{"name": "./y.gif", "text": "a star"}\n',
        encoding="utf-8",
    )
    expected = {"a/x.mp4": Origin("a ring, red", "3"), "y.gif": Origin("a star")}
    assert read_prompts(table) == read_prompts(lines) == expected


def test_lines_end_where_the_format_says(tmp_path):
    table, lines = tmp_path / "p.csv", tmp_path / "p.jsonl"
    table.write_text('file,prompt\nx.mp4,"a red\nring"\n', encoding="utf-8")
    lines.write_text('{"file": "x.mp4", "prompt": "a red\u2028ring"}\n', encoding="utf-8")
    assert read_prompts(table) == {"x.mp4": Origin("a red\nring")}
    assert read_prompts(lines) == {"x.mp4": Origin("a red\u2028ring")}


@pytest.mark.parametrize(
    ("given", "clip"), [("a/x.mp4", "a/x.mp4"), ("x.mp4", "b/x.mp4"), ("x", "b/x.webm"), ("c/x.gif", "x.mp4")]
)
def test_a_clip_is_found_by_name_then_file_name_then_stem(given, clip):
    assert match([clip], {given: Origin("a ring")}) == {clip: Origin("a ring")}


def test_the_closest_name_wins_and_a_doubtful_one_is_left_out():
    origins = {"a/x.mp4": Origin("first"), "b/x.mp4": Origin("second")}
    assert match(["b/x.mp4", "c/x.mp4", "z.mp4"], origins) == {"b/x.mp4": Origin("second")}


def test_a_line_that_names_a_clip_whole_names_no_other():
    line = {"x.mp4": Origin("a ring")}
    assert match(["x.mp4", "b/x.mp4", "x.webm"], line) == line
    assert match(["b/x.mp4", "c/x.mp4"], line) == dict.fromkeys(("b/x.mp4", "c/x.mp4"), line["x.mp4"])


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_are_the_same_on_their_letter_and_off_it(tmp_path, forms):
    written, called = (unicodedata.normalize(form, "a/café.mp4") for form in forms)
    path = tmp_path / "p.csv"
    path.write_text(f"file,prompt\n{written},a ring\n", encoding="utf-8")
    assert match([called], read_prompts(path)) == {called: Origin("a ring")}
    assert match([called], {written: Origin("a ring")}) == {called: Origin("a ring")}
    path.write_text(f"file,prompt\n{written},a ring\n{called},a star\n", encoding="utf-8")
    with pytest.raises(InputError, match="named twice"):
        read_prompts(path)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.csv", "file,prompt\na,\n", "line 2 has no 'prompt'"),
        ("p.csv", "prompt\na ring\n", "no 'file'"),
        ("p.csv", "file,prompt\na,b\na,c\n", "named twice"),
        ("p.jsonl", "{", "line 1 is not JSON"),
        ("p.jsonl", "[1]", "must be a JSON object"),
        (
            "p.jsonl",
            '{"file": "a", "prompt": "b", "seed": ' + "1" * 5000 + "}",
            "line 1 is not JSON that can be",
        ),
        ("p.jsonl", "[" * 100_000, "line 1 is not JSON that can be read"),
        ("p.csv", 'file,prompt\na,"' + "b" * 140_000, "p.csv is no table .*quotation mark"),
        ("p.txt", "", "must be .csv or .jsonl"),
    ],
)
def test_bad_files_are_named(tmp_path, name, text, says):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=says):
        read_prompts(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv"):
        read_prompts(tmp_path / "none.csv")
