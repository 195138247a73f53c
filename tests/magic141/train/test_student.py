"""Students as pipeline folders, packed to ship."""

import json

import pytest
from typer.testing import CliRunner

from magic141.errors import InputError
from magic141.train import student
from magic141.train.__main__ import app
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
    target = tmp_path / "own" / "own-student"
    target.parent.mkdir()
    for _ in range(2):  # packing again replaces it, and keeps the scores of its card
        student.pack(made, target)
        with (target / "README.md").open("a") as card:
            card.write("## Scores\nmeasured")
    assert (target / "README.md").read_text().count("measured") == 2
    assert "image-to-video, text-to-image" in (target / "README.md").read_text()
    assert not (target / "vae").exists()
    assert set(weights.presets()) == shipped | {"own-student"}
    pipe = Magic141Pipeline.from_pretrained("own-student")
    for part in ("vae", "text_encoder", "transformer"):
        ours, theirs = (getattr(each, part).state_dict() for each in (pipe, teacher))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert pipe.scheduler.config.guidance_scale == 1.0
    assert pipe.scheduler.config.shift == plan.shift
    student.pack(made, target, shift=1.7)
    scheduler = Magic141Pipeline.from_pretrained("own-student").scheduler
    assert type(scheduler) is type(pipe.scheduler)
    assert scheduler.config.shift == 1.7
    assert "| shift of the times | 3.0, and 1.7 where it is used |" in (target / "README.md").read_text()
    assert json.loads((target / student.STUDENT).read_text())["used_shift"] == 1.7
    facts = json.loads((target / weights.SHARED).read_text())
    (target / weights.SHARED).write_text(json.dumps(facts | {"sha256": {"vae/config.json": "0" * 64}}))
    weights.seal(target)
    with pytest.raises(weights.WeightsCorrupt, match="pack it anew"):
        Magic141Pipeline.from_pretrained("own-student")


def test_a_text_encoder_ships_as_its_teachers_whatever_it_was_loaded_in(tmp_path):
    import torch
    from transformers import CLIPModel

    from magic141 import weights

    lab = weights.resolve("lab") / "text_encoder"
    student.as_shipped(CLIPModel.from_pretrained(lab, dtype=torch.float32)).save_pretrained(tmp_path)
    ours, theirs = (
        {path.name: weights.file_sha256(path) for path in folder.iterdir()} for folder in (tmp_path, lab)
    )
    assert ours == theirs


def test_a_snapshot_of_the_prior_replaces_no_student(tmp_path):
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / student.STUDENT).write_text('{"prior": "both", "step": 3}')
    (tmp_path / "target").mkdir()
    with pytest.raises(InputError, match="is a snapshot of `prior`"):
        student.pack(tmp_path / "snapshot", tmp_path / "target")
    assert (tmp_path / "target").is_dir()


def test_a_transplant_is_a_start_and_no_student(tmp_path):
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / student.STUDENT).write_text('{"method": "transplant", "strength": 1.2}')
    (tmp_path / "target").mkdir()
    with pytest.raises(InputError, match="distill --initial"):
        student.pack(tmp_path / "start", tmp_path / "target")
    assert (tmp_path / "target").is_dir()


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("weights/lab", "lab"),
        ("runs/cfg/student", "cfg/student"),
        ("runs/cfg/snapshots/0000123", "cfg/snapshots/0000123"),
    ],
)
def test_a_record_tells_students_of_several_runs_apart(tmp_path, folder, name):
    assert student.named(tmp_path / folder) == name


@pytest.mark.slow
def test_a_student_ships_as_what_it_changes_of_its_teacher(tmp_path, monkeypatch):
    import torch

    from magic141 import adapter
    from magic141.pipeline import Magic141Pipeline
    from magic141.train.loop import Progressed

    teacher = Magic141Pipeline.from_pretrained("lab")
    plan = Plan(method="cfg")
    facts = {**vars(plan), **vars(Progressed(3, 12, 60.0))}
    student_model = Magic141Pipeline.from_pretrained("lab").transformer
    layer = student_model.single_transformer_blocks[0].to_qkv
    with torch.no_grad():
        layer.weight += 0.01 * torch.randn(layer.out_features, 2) @ torch.randn(2, layer.in_features)
        layer.bias += 0.1
    made = tmp_path / "cfg" / "student"
    student.store(teacher, student_model, plan.scheduler(), facts, made)
    monkeypatch.setenv("MAGIC141_WEIGHTS", str(tmp_path))
    target = tmp_path / "lab-thin"
    student.pack(made, target, rank=2)
    assert not (target / "transformer").exists()
    assert (target / adapter.FILE).stat().st_size < 200_000
    card = (target / "README.md").read_text()
    assert "in matrices of rank 2: 0.0% of it is left out" in card
    pipe = Magic141Pipeline.from_pretrained("lab-thin")
    for name, value in pipe.transformer.state_dict().items():
        torch.testing.assert_close(value, student_model.state_dict()[name], rtol=0, atol=2e-3)
    student.pack(made, target, rank=2, strength=1.5)
    assert "changes of `lab`, times 1.5, in" in (target / "README.md").read_text()
    farther = Magic141Pipeline.from_pretrained("lab-thin").transformer.single_transformer_blocks[0].to_qkv
    before = teacher.transformer.single_transformer_blocks[0].to_qkv
    torch.testing.assert_close(farther.bias, before.bias + 0.15, rtol=0, atol=1e-3)
    with pytest.raises(InputError, match=r"strength=1.5 .* give a rank"):
        student.pack(made, target, strength=1.5)
    half = Magic141Pipeline.from_pretrained("lab-thin", dtype=torch.float16)
    assert half.transformer.dtype == torch.float16


def test_what_recover_left_is_used_as_the_dense_model_is(tmp_path):
    (tmp_path / "recovered").mkdir()
    (tmp_path / "recovered" / student.STUDENT).write_text('{"method": "recover"}')
    with pytest.raises(InputError, match="at the times of its dense model"):
        student.pack(tmp_path / "recovered", tmp_path / "packed", shift=3.0)
    assert not (tmp_path / "packed").exists()


def test_what_is_asked_of_a_student_needs_one(tmp_path):
    words = ["pack", "--out", str(tmp_path), "--target", str(tmp_path / "packed"), "--shift", "3"]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, InputError)
    assert "name it with --student" in str(result.exception)


@pytest.mark.parametrize("shift", [0.0, -1.0, float("nan")])
def test_a_student_is_not_packed_to_be_used_at_no_times(tmp_path, shift):
    with pytest.raises(InputError, match=r"shift=.* above 0"):
        student.pack(tmp_path, tmp_path / "packed", shift=shift)


@pytest.mark.parametrize("held", ["notes.txt", "deep/model_index.json"])
def test_packing_replaces_no_folder_that_is_no_pipeline(tmp_path, held):
    target = tmp_path / "thesis"
    (target / held).parent.mkdir(parents=True)
    (target / held).touch()
    with pytest.raises(InputError, match="thesis would be replaced, and is no pipeline"):
        student.pack(tmp_path, target)
    with pytest.raises(InputError, match=held):
        student.pack(tmp_path, target / held / "in")
    assert (target / held).exists()


@pytest.mark.parametrize("strength", [float("inf"), float("nan"), -1.0])
def test_a_strength_that_is_none_is_refused(tmp_path, strength):
    with pytest.raises(InputError, match="strength=.* must be a finite number from 0"):
        student.pack(tmp_path, tmp_path / "packed", rank=2, strength=strength)


def stored(model, folder):
    """`model` as the transformer of a student that `cfg` left, its other parts left out."""
    model.save_pretrained(folder / "transformer")
    (folder / student.STUDENT).write_text('{"method": "cfg"}')
    return folder


@pytest.mark.parametrize(
    ("preset", "strength", "says"),
    [
        ("lab-student-p42", 1.5, "differ in shape: a pruned student ships whole"),
        ("lab", 1e9, r"strength=1e\+09 takes weights beyond half precision .65504.: use less"),
    ],
)
def test_what_cannot_be_a_difference_is_refused_and_leaves_nothing(tmp_path, preset, strength, says):
    from magic141.pipeline import Magic141Pipeline

    model = Magic141Pipeline.from_pretrained(preset).transformer
    for parameter in model.parameters():
        parameter.data += 0.01
    made = stored(model, tmp_path / "run" / "student")
    with pytest.raises(InputError, match=says):
        student.pack(made, tmp_path / "packed", rank=2, strength=strength)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_is_no_student_is_not_packed(tmp_path):
    with pytest.raises(InputError, match="has no student.json"):
        student.pack(tmp_path, tmp_path / "packed")
