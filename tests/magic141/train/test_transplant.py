"""What a student changes of its teacher is added to the pruned teacher, where that has it."""

import copy
import json

import pytest
import torch
from typer.testing import CliRunner

from magic141.errors import InputError
from magic141.pipeline import Magic141Pipeline
from magic141.scheduler import FewStepScheduler
from magic141.sparsify import apply, parse
from magic141.sparsify.importance import measure
from magic141.sparsify.structured import cut, what_stays
from magic141.train.__main__ import app
from magic141.train.student import STUDENT
from magic141.train.transplant import transplant
from magic141.transformer import Magic141Transformer3DModel


def student_of(dense):
    student = copy.deepcopy(dense)
    torch.manual_seed(1)
    for parameter in student.parameters():
        parameter.data += 0.01 * torch.randn(parameter.shape)
    return student


def test_without_recovery_the_result_is_the_student_pruned(dense):
    student, (way,) = student_of(dense), parse("structured-0.5")
    pruned = apply(dense, way)
    left = transplant(student, dense, pruned, 1.0)
    assert left == []
    expected = cut(student.state_dict(), what_stays(dense, 0.5, measure(dense, "magnitude")))
    for name, value in pruned.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-6), name


def test_strength_goes_on_along_the_line(dense):
    student, (way,) = student_of(dense), parse("structured-0.5")
    before, once, twice = (apply(copy.deepcopy(dense), way) for _ in range(3))
    transplant(student, dense, once, 1.0)
    transplant(student, dense, twice, 2.0)
    for name, value in before.state_dict().items():
        assert torch.allclose(
            twice.state_dict()[name] - value, 2 * (once.state_dict()[name] - value), atol=1e-6
        )


def test_a_pruned_student_has_nothing_to_bring_over(dense):
    (way,) = parse("structured-0.5")
    pruned = apply(copy.deepcopy(dense), way)
    with pytest.raises(InputError, match="pruned already"):
        transplant(pruned, dense, pruned, 1.0)


def test_a_model_of_another_shape_is_no_student(dense):
    (way,) = parse("structured-0.5")
    config = {name: value for name, value in dense.config.items() if not name.startswith("_")}
    wider = Magic141Transformer3DModel(**config | {"mlp_ratio": 3.0})
    with pytest.raises(InputError, match="differs from the dense model in shape"):
        transplant(wider, dense, apply(copy.deepcopy(dense), way), 1.0)


def test_the_command_leaves_a_student_that_distillation_can_start_from(tmp_path):
    (way,) = parse("structured-0.5")
    pipe = Magic141Pipeline.from_pretrained("lab")
    apply(pipe, way)
    pipe.save_pretrained(tmp_path / "p50")
    words = ("transplant", "--pruned", str(tmp_path / "p50"), "--strength", "1.2", "--out", str(tmp_path))
    answer = CliRunner().invoke(app, words, catch_exceptions=False)
    assert answer.exit_code == 0
    made = tmp_path / "transplant" / "student"
    found = Magic141Pipeline.from_pretrained(made)
    assert found.transformer.config.pruned_ratio == 0.5
    assert isinstance(found.scheduler, FewStepScheduler)
    facts = json.loads((made / STUDENT).read_text("utf-8"))
    assert (facts["of"], facts["dense"], facts["pruned"], facts["left"]) == ("lab-student", "lab", "p50", [])
    with pytest.raises(InputError, match="strength=0.0 must be"):
        CliRunner().invoke(app, [*words, "--strength", "0"], catch_exceptions=False)
    with pytest.raises(InputError, match="takes weights beyond half precision"):
        CliRunner().invoke(app, [*words, "--strength", "1e9", "--name", "far"], catch_exceptions=False)
    assert not (tmp_path / "far").exists(), "with less strength the same name is free"
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0, "the same again"
    with pytest.raises(InputError, match="holds a run with strength=1.2, and 1.4 is asked"):
        CliRunner().invoke(app, [*words, "--strength", "1.4"], catch_exceptions=False)


def test_what_no_transplant_made_is_not_replaced(tmp_path):
    (tmp_path / "mine" / "student").mkdir(parents=True)
    (tmp_path / "mine" / "student" / "notes.txt").write_text("precious")
    words = ("transplant", "--pruned", "lab-student-p42", "--out", str(tmp_path), "--name", "mine")
    with pytest.raises(InputError, match="student would be replaced, and no run made it"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "student", "notes.txt"]
