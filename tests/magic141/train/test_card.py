import json

import pytest

from magic141.train.card import NOTES, SCORES, facts_of, write_card, write_student_card

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


@pytest.mark.parametrize("kept", [SCORES + "\nmeasured\n", NOTES + "\nby hand\n\n" + SCORES + "\nmeasured\n"])
def test_notes_and_measured_scores_survive_a_new_card(tmp_path, kept):
    path = tmp_path / "README.md"
    write_card([FACTS], {}, path)
    path.write_text(path.read_text("utf-8") + kept, "utf-8")
    write_card([FACTS | {"samples": 1}], {}, path)
    text = path.read_text("utf-8")
    assert text.endswith(kept)
    assert "| vae | 1 |" in text


def leave(run, stage, **facts):
    (run / stage).mkdir(parents=True)
    (run / stage / "card.json").write_text(json.dumps(FACTS | {"stage": stage} | facts))


def test_stages_that_were_not_trained_again_keep_their_facts(tmp_path):
    kept, run = tmp_path / "kept", tmp_path / "run"
    kept.mkdir()
    old = [FACTS, FACTS | {"stage": "i2v"}]
    write_card(old, {"clip": {"motion": 0.5}}, kept / "README.md")
    leave(run, "vae", samples=7)
    leave(run, "clip")
    (run / "clip" / "exam.json").write_text('{"motion": 1.0}')
    stages, exams = facts_of(run, kept)
    assert [(facts["stage"], facts["samples"]) for facts in stages] == [
        ("vae", 7),
        ("clip", FACTS["samples"]),
        ("i2v", FACTS["samples"]),
    ]
    assert exams == {"clip": {"motion": 1.0}}


def test_a_stage_that_went_on_is_added_once(tmp_path):
    write_card([FACTS | {"stage": "i2v"}], {}, tmp_path / "README.md")
    leave(tmp_path, "i2v", command="python -m magic141.train i2v --initial lab", samples=9)
    for _ in range(2):
        stages, exams = facts_of(tmp_path, tmp_path)
        assert [facts["samples"] for facts in stages] == [FACTS["samples"], 9]
        write_card(stages, exams, tmp_path / "README.md")


def test_a_run_whose_first_stage_went_on_is_added_whole(tmp_path):
    write_card([FACTS | {"stage": "t2i"}, FACTS | {"stage": "i2v"}], {}, tmp_path / "README.md")
    leave(tmp_path, "t2i", command="python -m magic141.train t2i --initial lab", samples=9)
    leave(tmp_path, "i2v", command="python -m magic141.train i2v", samples=7)
    stages, _ = facts_of(tmp_path, tmp_path)
    assert [(facts["stage"], facts["samples"]) for facts in stages] == [
        ("t2i", FACTS["samples"]), ("t2i", 9), ("i2v", FACTS["samples"]), ("i2v", 7),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("step", "seen"), [(1234, "1,234, 1,234, 2"), (None, "not recorded, not recorded, 2")]
)
def test_a_student_states_what_it_saw_where_its_run_lived_to_say_so(tmp_path, step, seen):
    facts = {"method": "dmd2", "tasks": ["image-to-video"], "steps": 4, "guidance": 2.0, "shift": 1.0}
    write_student_card(facts | {"step": step, "samples": step, "seconds": 90.0}, None, tmp_path / "README.md")
    assert f"| updates, samples, minutes | {seen} |" in (tmp_path / "README.md").read_text("utf-8")
