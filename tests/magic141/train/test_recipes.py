import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from magic141 import weights
from magic141.autoencoder import AutoencoderMagic141
from magic141.errors import InputError
from magic141.pipeline import Magic141Pipeline
from magic141.train import flow, recipes
from magic141.train.__main__ import app
from magic141.train.flow import Denoiser


def test_packing_one_stage_keeps_the_rest_of_the_shipped_weights(tmp_path):
    torch.manual_seed(0)
    vae = AutoencoderMagic141()
    vae.save_pretrained(tmp_path / "vae" / "model")
    facts = {"stage": "vae", "samples": 16, "seconds": 1.0, "seed": 0, "machine": "m", "commit": "0" * 40}
    facts["command"] = "python -m magic141.train vae"
    (tmp_path / "vae" / "card.json").write_text(json.dumps(facts))
    target = tmp_path / "packed"
    recipes.pack(tmp_path, target)

    packed, shipped = Magic141Pipeline.from_pretrained(target), Magic141Pipeline.from_pretrained("lab")
    for name in ("transformer", "text_encoder"):
        ours, theirs = (getattr(pipe, name).state_dict() for pipe in (packed, shipped))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert torch.equal(packed.vae.to_pixels.weight, vae.to_pixels.weight.half().float())
    old, new = (
        json.loads((folder / "training.json").read_text("utf-8"))["stages"]
        for folder in (weights.resolve("lab"), target)
    )
    assert [row for row in new if row["stage"] != "vae"] == [row for row in old if row["stage"] != "vae"]
    assert "| vae | 16 |" in (target / "README.md").read_text("utf-8")
    assert weights.verify(target)


def test_a_folder_without_a_trained_stage_is_refused(tmp_path):
    with pytest.raises(InputError, match="no trained stage"):
        recipes.pack(tmp_path, tmp_path / "packed")


def test_stages_that_start_from_nothing_say_so(tmp_path):
    with pytest.raises(InputError, match="'clip' takes none"):
        recipes.train_clip(recipes.Run(out=tmp_path, budget=1.0, samples=1, initial="lab"))


@pytest.mark.parametrize("stage", ["vae", "clip"])
def test_only_the_transformer_is_compiled(stage, tmp_path):
    with pytest.raises(InputError, match=f"--compile: stage '{stage}' trains no transformer"):
        recipes.STAGES[stage](recipes.Run(out=tmp_path, budget=1.0, samples=1, compile=True))


def test_a_pruned_model_is_no_start(tmp_path):
    with pytest.raises(InputError, match="pruned already"):
        recipes.train_t2i(recipes.Run(out=tmp_path, budget=1.0, samples=1, initial="lab-student-p42"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", ["vae", "clip"])
@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"stated": (0.0, 1.0)}, "--stated: stage '{}' has captions of its own"),
        ({"terse": True}, "--terse: stage '{}' has captions of its own"),
        ({"latents": Path("sets")}, "--latents sets: stage '{}' encodes no scenes"),
    ],
)
def test_what_only_the_transformer_takes_is_refused(stage, asked, why, tmp_path):
    with pytest.raises(InputError, match=why.format(stage)):
        recipes.STAGES[stage](recipes.Run(out=tmp_path, budget=1.0, samples=1, **asked))


def test_terse_captions_that_state_are_refused(tmp_path):
    with pytest.raises(InputError, match="a terse caption states nothing hidden"):
        recipes.Run(out=tmp_path, budget=1.0, samples=1, terse=True, stated=(0.0, 0.5))


@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"initial": "lab"}, {"stated": (0.0, 1.0)}, {"terse": True}]
)
def test_a_run_from_other_weights_or_captions_is_not_resumed(tmp_path, changed):
    run = recipes.Run(out=tmp_path, budget=1.0, samples=1)
    run.same_plan("i2v")
    run.same_plan("i2v")
    with pytest.raises(InputError, match=f"i2v holds a run with {next(iter(changed))}="):
        replace(run, **changed).same_plan("i2v")


def save_other_vae(out):
    torch.manual_seed(0)
    AutoencoderMagic141().save_pretrained(out / "vae" / "model")


def test_a_run_of_other_encoders_is_not_resumed(tmp_path):
    run = recipes.Run(out=tmp_path, budget=1.0, samples=1)
    run.same_plan("t2i")
    save_other_vae(tmp_path)
    with pytest.raises(
        InputError,
        match="t2i holds a run with encoders=.*: delete .*t2i to train it anew, or give another --out",
    ):
        run.same_plan("t2i")


def test_a_run_from_another_denoiser_of_the_same_name_is_not_resumed(tmp_path):
    run, start = recipes.Run(out=tmp_path, budget=1.0, samples=1), Denoiser()
    run.same_plan("i2v", start)
    start.place.bias.data += 1  # a head that is drawn anew for a pipeline
    run.same_plan("i2v", start)
    start.transformer.proj_out.bias.data += 1
    with pytest.raises(InputError, match="i2v holds a run with start="):
        run.same_plan("i2v", start)


def test_a_run_of_an_older_version_is_told_what_to_do(tmp_path):
    run = recipes.Run(out=tmp_path, budget=1.0, samples=1)
    run.same_plan("t2i")
    path = tmp_path / "t2i" / "plan.json"
    plan = json.loads(path.read_text())
    del plan["encoders"]
    path.write_text(json.dumps(plan))
    with pytest.raises(
        InputError, match="older version, which did not write down its encoders: delete .*t2i"
    ):
        run.same_plan("t2i")


def test_a_transformer_is_not_packed_with_encoders_that_it_never_saw(tmp_path):
    recipes.Run(out=tmp_path, budget=1.0, samples=1).same_plan("i2v")
    torch.save(Denoiser().state_dict(), tmp_path / "i2v" / "denoiser.pt")
    made_by = json.loads((tmp_path / "i2v" / "plan.json").read_text())["encoders"]
    recipes._check_encoders(tmp_path / "i2v", made_by)
    save_other_vae(tmp_path)
    with pytest.raises(InputError, match="was trained with other encoders .* train the transformer anew"):
        recipes.pack(tmp_path, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_what_t2i_left_for_other_encoders_is_no_start_of_i2v(tmp_path):
    run = recipes.Run(out=tmp_path, budget=1.0, samples=1)
    run.same_plan("t2i")
    torch.save(Denoiser().state_dict(), tmp_path / "t2i" / "denoiser.pt")
    save_other_vae(tmp_path)
    with pytest.raises(InputError, match="t2i was trained with other encoders"):
        recipes.train_i2v(run)
    assert not (tmp_path / "i2v").exists()


def test_an_older_transformer_that_does_not_tell_its_encoders_is_packed(tmp_path):
    (tmp_path / "denoiser.pt").touch()
    recipes._check_encoders(tmp_path, "0" * 64)
    (tmp_path / "plan.json").write_text('{"seed": 0}')
    recipes._check_encoders(tmp_path, "0" * 64)


def test_packing_replaces_no_folder_that_is_no_pipeline(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    with pytest.raises(InputError, match=r"thesis would be replaced, and is no pipeline .* name a folder"):
        recipes.pack(tmp_path, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").exists()


def a_text(path):
    path.write_text("no denoiser")


def a_checkpoint(path):
    torch.save({"model": Denoiser().state_dict(), "kept": 0}, path)


@pytest.mark.parametrize("made", [a_text, a_checkpoint])
@pytest.mark.parametrize("words", [["t2i"], ["i2v"], ["prior", "both"]])
def test_a_file_that_is_no_denoiser_is_no_start(tmp_path, made, words):
    made(tmp_path / "file")
    out = tmp_path / "out"
    result = CliRunner().invoke(app, [*words, "--initial", str(tmp_path / "file"), "--out", str(out)])
    assert isinstance(result.exception, InputError)
    assert "file is no denoiser: name the denoiser.pt" in str(result.exception)
    assert not out.exists()


def test_a_rate_that_is_none_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="lr=nan must be above 0"):
        recipes.train_t2i(recipes.Run(out=tmp_path, budget=1.0, samples=1, rate=float("nan")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", [["vae"], ["t2i"], ["distill", "dmd"], ["recover"], ["prior", "both"], ["transplant"]]
)
def test_a_folder_that_cannot_be_made_is_named(tmp_path, words):
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "file" / "runs")])
    assert isinstance(result.exception, InputError)
    assert "cannot be written (Not a directory): name another" in str(result.exception)


def test_the_clip_stage_has_no_device(tmp_path):
    with pytest.raises(InputError, match="trains on the CPU"):
        recipes.train_clip(recipes.Run(out=tmp_path, budget=1.0, samples=1, device="cuda"))


@pytest.mark.parametrize("stage", ["t2i", "recover", "prior both"])
@pytest.mark.parametrize(
    ("device", "said"),
    [("cuda:99", "device 'cuda:99' cannot be used"), ("meta", "device 'meta' holds no numbers")],
)
def test_a_device_that_cannot_be_used_is_named(tmp_path, stage, device, said):
    result = CliRunner().invoke(app, [*stage.split(), "--device", device, "--out", str(tmp_path)])
    assert isinstance(result.exception, InputError)
    assert said in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_a_stage_starts_from_what_another_left(tmp_path):
    torch.manual_seed(0)
    left = Denoiser()
    torch.save(left.state_dict(), tmp_path / "denoiser.pt")
    found = recipes._denoiser(str(tmp_path / "denoiser.pt"))
    assert all(torch.equal(found.state_dict()[key], value) for key, value in left.state_dict().items())


def run(out, samples, device="cpu"):
    return recipes.Run(out=out, budget=5.0, samples=samples, device=device, batch_size=4, stored=16)


@pytest.mark.slow
def test_the_transformer_stages_run_one_after_the_other(tmp_path):
    assert recipes.train_t2i(run(tmp_path, 8)).samples == 8
    assert recipes.train_i2v(run(tmp_path, 8)).samples == 8
    recipes.pack(tmp_path, tmp_path / "packed")
    assert Magic141Pipeline.from_pretrained(tmp_path / "packed").transformer.config.in_channels == 33


@pytest.mark.gpu
def test_an_accelerator_sees_the_same_batches_and_under_the_same_noise_losses(tmp_path, monkeypatch):
    def drawn_on_the_cpu(like, generator):
        return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)

    monkeypatch.setattr(flow, "normal", drawn_on_the_cpu)
    for device in ("cpu", "cuda"):
        recipes.train_t2i(run(tmp_path / device, 80, device))
    losses = [
        [
            json.loads(line)["loss"]
            for line in (tmp_path / device / "t2i" / "loss.jsonl").read_text().splitlines()
        ]
        for device in ("cpu", "cuda")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
