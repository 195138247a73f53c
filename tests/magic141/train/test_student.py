"""Students as pipeline folders, packed to ship."""

import json

import pytest

from magic141.errors import InputError
from magic141.train import student
from magic141.train.distill import Plan


@pytest.mark.slow
def test_a_student_of_the_shipped_teacher_ships_without_what_that_ships(tmp_path, monkeypatch):
    import torch

    from magic141 import weights
    from magic141.pipeline import Magic141Pipeline
    from magic141.train.loop import Progressed

    shipped = set(weights.presets())
    teacher = Magic141Pipeline.from_pretrained("lab")
    run = tmp_path / "dmd2"
    plan = Plan(method="dmd2", tasks=("image-to-video", "text-to-image"))
    facts = {**vars(plan), **vars(Progressed(3, 12, 60.0))}
    made = run / "snapshots" / "0000003"
    student.store(teacher, teacher.transformer, plan.scheduler(), facts, made)
    trained = {"seed": 0, "machine": "m", "commit": "c" * 40, "command": "python -m magic141.train distill"}
    (run / "card.json").write_text(json.dumps(trained))
    monkeypatch.setenv("MAGIC141_WEIGHTS", str(tmp_path / "own"))
    target = tmp_path / "own" / "lab-student"
    target.parent.mkdir()
    for _ in range(2):  # packing again replaces it, and keeps the scores of its card
        student.pack(made, target)
        with (target / "README.md").open("a") as card:
            card.write("## Scores\nmeasured")
    assert (target / "README.md").read_text().count("measured") == 2
    assert "image-to-video, text-to-image" in (target / "README.md").read_text()
    assert not (target / "vae").exists()
    assert set(weights.presets()) == shipped | {"lab-student"}
    pipe = Magic141Pipeline.from_pretrained("lab-student")
    for part in ("vae", "text_encoder", "transformer"):
        ours, theirs = (getattr(each, part).state_dict() for each in (pipe, teacher))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert pipe.scheduler.config.guidance_scale == 1.0
    facts = json.loads((target / weights.SHARED).read_text())
    (target / weights.SHARED).write_text(json.dumps(facts | {"sha256": {"vae/config.json": "0" * 64}}))
    weights.seal(target)
    with pytest.raises(weights.WeightsCorrupt, match="pack it anew"):
        Magic141Pipeline.from_pretrained("lab-student")


def test_what_is_no_student_is_not_packed(tmp_path):
    with pytest.raises(InputError, match="has no student.json"):
        student.pack(tmp_path, tmp_path / "packed")
