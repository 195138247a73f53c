import json

from magic141.train.card import SCORES, facts_of, write_card

FACTS = {
    "stage": "vae",
    "samples": 81536,
    "seconds": 2880.0,
    "seed": 0,
    "machine": "x86_64, Linux",
    "commit": "0123456789abcdef",
    "command": "python -m magic141.train vae",
}


def test_a_card_states_what_each_stage_saw(tmp_path):
    write_card(
        [FACTS, FACTS | {"stage": "t2i", "note": "Resumed once."}], {"vae": {"psnr": 30.5}}, tmp_path / "c.md"
    )
    text = (tmp_path / "c.md").read_text("utf-8")
    assert "| vae | 81,536 | 48 | 0 | x86_64, Linux | `0123456789` | `python -m magic141.train vae` |" in text
    assert "Resumed once." in text
    assert "| psnr | 30.5 |" in text


def test_measured_scores_survive_a_new_card(tmp_path):
    path = tmp_path / "README.md"
    write_card([FACTS], {}, path)
    path.write_text(path.read_text("utf-8") + SCORES + "\nmeasured\n", "utf-8")
    write_card([FACTS | {"samples": 1}], {}, path)
    text = path.read_text("utf-8")
    assert text.endswith(SCORES + "\nmeasured\n")
    assert "| vae | 1 |" in text


def test_facts_are_found_where_stages_leave_them(tmp_path):
    for stage in ("vae", "i2v"):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "card.json").write_text(json.dumps(FACTS | {"stage": stage}))
    (tmp_path / "i2v" / "exam.json").write_text('{"motion": 1.0}')
    stages, exams = facts_of(tmp_path, ("vae", "clip", "i2v"))
    assert [facts["stage"] for facts in stages] == ["vae", "i2v"]
    assert exams == {"i2v": {"motion": 1.0}}
