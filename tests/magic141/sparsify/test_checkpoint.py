"""A sparsified folder is found by name, says what it is, and is written whole or not at all."""

from pathlib import Path

import pytest
from safetensors import SafetensorError
from typer.testing import CliRunner, Result

from magic141 import weights
from magic141.__main__ import app
from magic141.conditioning import make_text_image_model, make_tokenizer
from magic141.pipeline import Magic141Pipeline
from magic141.presets import LAB
from magic141.scheduler import FlowMatchScheduler
from magic141.sparsify import quantise
from magic141.sparsify.memory import parameter_bytes
from magic141.train import calibrate
from magic141.transformer import Magic141Transformer3DModel

HAS_TORCHAO = quantise.find_spec("torchao") is not None


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of weights with a tiny `dense`. Tests add to it."""
    from magic141.autoencoder import AutoencoderMagic141

    folder = tmp_path_factory.mktemp("weights")
    Magic141Pipeline(
        transformer=Magic141Transformer3DModel(
            in_channels=33,
            out_channels=16,
            num_attention_heads=4,
            attention_head_dim=16,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            mlp_ratio=2.0,
            activation_fn="gelu",
            text_embed_dim=LAB.transformer.text_embed_dim,
            pooled_projection_dim=LAB.transformer.pooled_projection_dim,
            rope_axes_dim=(4, 6, 6),
            shared_modulation=True,
            continuation_embed=True,
        ),
        vae=AutoencoderMagic141(width=16, fine_width=8, encoder_blocks=1, decoder_blocks=1, fine_blocks=1),
        text_encoder=make_text_image_model(),
        tokenizer=make_tokenizer(),
        scheduler=FlowMatchScheduler(),
    ).save_pretrained(folder / "dense")
    return folder


def sparsify(own: Path, *args: object) -> Result:
    runner = CliRunner(env={"MAGIC141_WEIGHTS": str(own)})
    return runner.invoke(app, ["sparsify", *map(str, args)])


def test_a_pruned_model_is_a_checkpoint_by_name(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = sparsify(own, "--model", "dense", "--sparsity", "structured-0.5", "-o", own / "dense-p50")
    assert result.exit_code == 0, result.output
    monkeypatch.setenv("MAGIC141_WEIGHTS", str(own))
    assert {"dense", "dense-p50", "lab"} <= set(weights.presets())
    pipe = Magic141Pipeline.from_pretrained("dense-p50")
    assert pipe.transformer.config.pruned_ratio == 0.5
    card = (own / "dense-p50" / "README.md").read_text("utf-8")
    for part in ("vae", "text_encoder", "tokenizer"):  # copied as they are stored
        for path in (own / "dense" / part).iterdir():
            assert (own / "dense-p50" / part / path.name).read_bytes() == path.read_bytes()
    file = own / "dense-p50" / "transformer" / "diffusion_pytorch_model.safetensors"
    assert f"its file has {file.stat().st_size:,}" in " ".join(result.output.split())
    assert file.stat().st_mode == (own / "dense-p50" / "model_index.json").stat().st_mode
    sums = weights.verify(own / "dense-p50")
    assert sums["transformer/diffusion_pytorch_model.safetensors"] in card
    assert weights.fingerprint(own / "dense") in card
    assert str(own) not in card
    assert [path for path in own.iterdir() if path.name.startswith(".")] == []

    again = sparsify(own, "--model", "dense-p50", "--sparsity", "structured-0.5", "-o", own / "twice")
    assert again.exit_code == 2
    assert "the model is pruned already" in again.stderr
    assert not (own / "twice").exists()


def test_what_goes_can_be_looked_up_on_training_scenes(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "SCENES", 8)
    dense = ["--model", "dense", "--sparsity", "structured-0.5"]
    for criterion in ("magnitude", "taylor"):
        result = sparsify(own, *dense, "--criterion", criterion, "-o", own / criterion)
        assert result.exit_code == 0, result.output
        card = (own / criterion / "README.md").read_text("utf-8")
        assert f"structured-0.5, by {criterion}, without recovery" in card
        assert f"--sparsity structured-0.5 --criterion {criterion}`" in card
    kept = [weights.verify(own / criterion) for criterion in ("magnitude", "taylor")]
    file = "transformer/diffusion_pytorch_model.safetensors"
    assert kept[0][file] != kept[1][file]
    assert sparsify(own, *dense, "--criterion", "luck", "-o", own / "luck").exit_code == 2


@pytest.mark.skipif(not HAS_TORCHAO, reason="torchao is not installed")
def test_pruned_and_quantised_in_one(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "structured-0.5+int8"
    assert sparsify(own, "--model", "dense", "--sparsity", text, "-o", own / "both").exit_code == 0
    monkeypatch.setenv("MAGIC141_WEIGHTS", str(own))
    assert Magic141Pipeline.from_pretrained("both").transformer.is_quantized


@pytest.mark.skipif(HAS_TORCHAO, reason="torchao is installed")
def test_without_torchao_nothing_is_written(own: Path) -> None:
    result = sparsify(own, "--model", "dense", "--sparsity", "int8", "-o", own / "eight")
    assert result.exit_code == 2
    assert "pip install 'magic141[quantise]'" in result.stderr
    assert not (own / "eight").exists()


@pytest.mark.parametrize(
    ("sparsity", "output", "message"),
    [
        ("structured-1", "x", "ratio=1.0 must lie in [0, 1)"),
        ("structured--0.1", "x", "sparsity 'structured--0.1' is unknown"),
        ("none", "x", "sparsity 'none' changes nothing"),
        ("2:4", "x", "save 'n:m-0.5', the same zeros"),
        ("structured-0.5", "dense", "exists: remove it, or name another"),
        ("structured-0.5", "nowhere/x", "does not exist: create it first"),
        ("structured-0.5", "/proc/x", "cannot be written"),
    ],
)
def test_bad_requests_are_refused_before_loading(
    own: Path, monkeypatch: pytest.MonkeyPatch, sparsity: str, output: str, message: str
) -> None:
    monkeypatch.setattr(Magic141Pipeline, "from_pretrained", None)
    result = sparsify(own, "--model", "dense", "--sparsity", sparsity, "-o", own / output)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("unstructured-0.5", "--refit"), "--refit is for 'structured', and --sparsity is unstructured-0.5"),
        (("int8", "--criterion", "taylor"), "--criterion taylor is for structured and blocks"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    own: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(Magic141Pipeline, "from_pretrained", None)
    result = sparsify(own, "--model", "dense", "--sparsity", *words, "-o", own / "x")
    assert result.exit_code == 2
    assert message in result.stderr


def test_halves_stay_halves_on_the_disk(tmp_path: Path) -> None:
    result = sparsify(tmp_path, "--sparsity", "structured-0.25", "-o", tmp_path / "p25")
    assert result.exit_code == 0, result.output
    size = (tmp_path / "p25" / "transformer" / "diffusion_pytorch_model.safetensors").stat().st_size
    shipped = weights.resolve("lab") / "transformer" / "diffusion_pytorch_model.safetensors"
    assert 0.7 < size / shipped.stat().st_size < 0.8


def test_a_full_disk_is_an_error_that_leaves_nothing(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(Magic141Pipeline, "save_pretrained", full)
    result = sparsify(own, "--model", "dense", "--sparsity", "structured-0.5", "-o", own / "full")
    assert result.exit_code == 2
    assert "No space left on device" in " ".join(result.stderr.split())
    assert not list(own.glob("*full*"))


def test_a_checkpoint_without_its_config_is_refused_at_the_door(own: Path, tmp_path: Path) -> None:
    assert sparsify(own, "--model", "dense", "--sparsity", "blocks-0.5", "-o", own / "bare").exit_code == 0
    (own / "bare" / "transformer" / "config.json").unlink()
    (own / "bare" / "SHA256SUMS").unlink()
    command = ["generate", "a small red ring", "-o", str(tmp_path / "clip.mp4"), "--model", "bare"]
    result = CliRunner(env={"MAGIC141_WEIGHTS": str(own)}).invoke(app, command)
    assert result.exit_code == 2
    assert "has no config.json: weights alone do not say what was pruned" in result.stderr


def test_the_pruned_checkpoint_that_ships_is_used_by_name() -> None:
    lab, pruned = (Magic141Pipeline.from_pretrained(name) for name in ("lab", "lab-student-p42"))
    assert pruned.transformer.config.pruned_ratio == 0.25
    assert pruned.transformer.config.pruned_mlp_ratio == 0.625
    assert parameter_bytes(pruned.transformer) <= 0.6 * parameter_bytes(lab.transformer)
    weights.verify(weights.resolve("lab-student-p42"))


@pytest.mark.skipif(not HAS_TORCHAO, reason="torchao is not installed")
def test_quantised_in_bfloat16_it_computes_in_bfloat16(own: Path, tmp_path: Path) -> None:
    """The two commands that a report prints for such a setting."""
    made = ["--model", "dense", "--sparsity", "int8", "--precision", "bfloat16"]
    assert sparsify(own, *made, "-o", own / "half").exit_code == 0
    assert "--sparsity int8 --precision bfloat16`" in (own / "half" / "README.md").read_text("utf-8")
    clip = [
        "generate",
        "a small red ring",
        "-o",
        str(tmp_path / "clip.mp4"),
        "--model",
        "half",
        "--steps",
        "1",
    ]
    runner = CliRunner(env={"MAGIC141_WEIGHTS": str(own)})
    result = runner.invoke(app, [*clip, "--frames", "5", "--precision", "bfloat16"])
    assert result.exit_code == 0, result.output
    result = runner.invoke(app, [*clip, "--frames", "5"])
    assert result.exit_code == 2
    assert "quantised from torch.bfloat16" in " ".join(result.stderr.split())
