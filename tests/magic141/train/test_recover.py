"""Recovery of a pruned model, on tensors small enough for a unit test."""

import json
import re

import pytest
import torch
from typer.testing import CliRunner

from magic141.errors import InputError
from magic141.pipeline import Magic141Pipeline
from magic141.train import recover
from magic141.train.__main__ import app
from magic141.train.flow import Batch
from magic141.train.loop import Settings
from magic141.train.recover import Plan
from magic141.train.student import STUDENT

T = torch.full((4,), 0.5)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(known=1, seed=1):
    return Batch(
        latents=torch.randn(4, 16, 2, 4, 4, generator=gen(seed)),
        known=known,
        continuation=torch.zeros(4, dtype=torch.bool),
        text_tokens=torch.randn(4, 5, 128, generator=gen(seed)),
        pooled=torch.randn(4, 128, generator=gen(seed)),
        image_tokens=None,
        cover=torch.zeros(4, 2, 8, 8),
    )


def test_the_loss_is_zero_where_the_models_agree_and_grows_with_the_square_of_their_difference():
    x0 = torch.randn(4, 16, 3, 2, 2, generator=gen())

    def off_by(amount):
        def pruned(x_t, t):
            return x_t + amount

        return recover.loss(pruned, lambda x_t, t: x_t, x0, 1, T, 0.0, gen(1))["loss"].item()

    assert off_by(0.0) == 0
    assert off_by(0.5) == pytest.approx(0.25, rel=1e-5)


def test_the_flow_term_is_zero_for_the_velocity_of_the_data():
    x0 = torch.zeros(4, 16, 3, 2, 2)  # then x_t = t eps, and the velocity is x_t / t
    terms = recover.loss(
        lambda x_t, t: x_t / t.view(-1, 1, 1, 1, 1), lambda x_t, t: x_t * 0, x0, 1, T, 0.5, gen()
    )
    assert terms["flow"] < 1e-9
    assert terms["distil"].item() == pytest.approx(1, abs=0.2)  # the power of eps
    assert terms["loss"].item() == pytest.approx(terms["distil"].item())


def test_errors_count_for_more_where_objects_are():
    x0 = torch.randn(4, 16, 3, 2, 2, generator=gen())
    cover = torch.zeros(4, 3, 4, 4)
    cover[..., 2:] = 1  # the right half of every frame

    def off_on(side):
        def pruned(x_t, t):
            v = x_t.clone()
            v[..., side] += 1
            return v

        terms = recover.loss(pruned, lambda x_t, t: x_t, x0, 1, T, 0.0, gen(1), cover)
        return terms["loss"].item(), terms["distil"].item()

    (left, plain), (right, same) = off_on(0), off_on(1)
    assert plain == pytest.approx(same, rel=1e-5) == pytest.approx(0.5, rel=1e-5)
    assert right == pytest.approx((1 + recover.FOCUS) * left, rel=1e-5)
    assert left + right == pytest.approx(1, rel=1e-5)


def test_known_frames_are_no_question():
    x0 = torch.randn(4, 16, 3, 2, 2, generator=gen())

    def wrong_there(x_t, t):
        return torch.cat([x_t[:, :, :2] + 9, x_t[:, :, 2:]], dim=2)

    assert recover.loss(wrong_there, lambda x_t, t: x_t, x0, 2, T, 0.0, gen())["loss"] == 0


def test_a_pruned_model_comes_nearer_to_the_dense_one(dense, tmp_path):
    plan = Plan(calibration=2)
    pruned = recover.pruned_of(plan, dense, lambda *_: batch(seed=1), None)
    assert pruned.config.pruned_ratio == 0.5
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}

    def distance(model):
        fields = (recover.field(of, batch(seed=9)) for of in (model, dense))
        return recover.loss(*fields, batch(seed=9).latents, 1, T, 0.0, gen())["distil"].item()

    start = distance(pruned)
    settings = Settings(out=tmp_path, samples=4 * 100, batch_size=4, lr=1e-3, warmup_steps=1, ema=0.9)
    model, seen = recover.train(settings, lambda step, _: batch(seed=20 + step), dense, pruned, flow=0.0)
    assert seen.step == 100
    assert distance(model) < 0.8 * start
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())
    assert (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsity": "none"}, "'none' cannot be recovered"),
        ({"sparsity": "n:m-0.5"}, "zeros would be trained away"),
        ({"sparsity": "structured-0.5+int8"}, "quantisation comes last"),
        ({"sparsity": "structured-1.5"}, "ratio=1.5"),
        ({"criterion": "luck"}, "'luck' is unknown"),
        ({"calibration": 0}, "calibration=0 must be at least 1"),
        ({"flow": -1.0}, "flow=-1.0 must be at least 0"),
        ({"flow": float("nan")}, "flow=nan must be at least 0, and finite"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"steps": 4}, "flow=0.1 asks a student of 4 steps"),
    ],
)
def test_plans_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(InputError, match=re.escape(message)):
        Plan(**changes)


def test_the_command_prunes_trains_and_packs_what_is_used_by_name(tmp_path):
    def command(*words):
        return CliRunner().invoke(app, [*words, "--out", str(tmp_path)], catch_exceptions=False)

    words = (
        "recover",
        "--sparsity",
        "structured-0.75",
        "--batch-size",
        "1",
        "--samples",
        "1",
        "--stored",
        "64",
    )
    assert command(*words).exit_code == 0
    made = tmp_path / "recover" / "student"
    pipe = Magic141Pipeline.from_pretrained(made)
    assert pipe.transformer.config.pruned_ratio == 0.75
    assert json.loads((made / STUDENT).read_text("utf-8"))["size"] < 0.5
    assert (
        CliRunner().invoke(app, ["pack", "--student", str(made), "--target", str(tmp_path / "p75")]).exit_code
        == 0
    )
    card = (tmp_path / "p75" / "README.md").read_text("utf-8")
    assert "# magic141 p75" in card
    assert "structured-0.75 by taylor, then refitted" in card
    assert not (tmp_path / "p75" / "vae").exists()  # lab ships it
    on = ("--name", "on", "--initial", str(tmp_path / "p75"), "--samples", "2", "--budget", "0.001")
    assert command(*words, *on).exit_code == 0
    assert json.loads((tmp_path / "on" / "student" / STUDENT).read_text("utf-8"))["initial"] == "p75"
    with pytest.raises(InputError, match="pruned_ratio=0.75, and sparsity='structured-0.5' asks for 0.5"):
        command(*words, *on, "--name", "less", "--sparsity", "structured-0.5")
    # What is refused leaves nothing behind that the name would then be the run of.
    assert not (tmp_path / "less").exists()
    grown = ("--name", "less", "--sparsity", "structured-0.75-0.5")
    assert command(*words, *on, *grown).exit_code == 0
    larger, smaller = (
        Magic141Pipeline.from_pretrained(folder).transformer
        for folder in (tmp_path / "less" / "student", tmp_path / "p75")
    )
    assert (larger.config.pruned_ratio, larger.config.pruned_mlp_ratio) == (0.75, 0.5)
    # One update later it still is that model, grown, and not the dense one pruned anew.
    x_embedder = larger.x_embedder.weight, smaller.x_embedder.weight
    torch.testing.assert_close(*x_embedder, rtol=0, atol=2e-3)
    block = larger.single_transformer_blocks[0], smaller.single_transformer_blocks[0]
    for ours in block[1].mlp_in.weight[:3]:
        assert (block[0].mlp_in.weight - ours).abs().amax(1).min() < 0.02
    with pytest.raises(InputError, match="holds a run with criterion='taylor'"):
        command(*words, "--criterion", "activation")
    with pytest.raises(InputError, match="steps=4: lab is none of few steps"):
        command("recover", "--name", "other", "--steps", "4")
    with pytest.raises(InputError, match="pruned already"):
        command(*words, "--name", "twice", "--dense", str(made))
