import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from magic141 import weights
from magic141.__main__ import app
from magic141.command import Precision, load
from magic141.pipeline import Magic141Pipeline
from magic141.video import VideoWriter, read_video

PROMPT = "a small red ring drifting left over dark stripes"


def invoke(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def generate(model: Path, output: Path, *args: object) -> Result:
    frames = () if "--seconds" in args else ("--frames", 5)
    return invoke("generate", PROMPT, "-o", output, "--model", model, "--steps", 2, *frames, *args)


def refuse_to_load(*_: object) -> None:
    raise AssertionError("the pipeline was loaded")


def test_a_clip_is_written(saved_pipeline: Path, tmp_path: Path) -> None:
    output = tmp_path / "clip.mp4"
    result = generate(saved_pipeline, output, "--fps", 8)
    assert result.exit_code == 0, result.output
    frames, fps = read_video(output)
    assert frames.shape == (5, 64, 64, 3)
    assert fps == 8
    for stage in ("load", "text encode", "image", "image encode", "denoise", "vae decode", "file encode"):
        assert any(line.strip().startswith(stage) for line in result.stdout.splitlines()), stage
    assert "0.62 s of video, real-time factor" in result.stdout


def test_json_says_what_was_done(saved_pipeline: Path, tmp_path: Path) -> None:
    output = tmp_path / "clip.mp4"
    result = generate(saved_pipeline, output, "--seed", 3, "--device", "cpu", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    expected: dict[str, Any] = {
        "output": str(output),
        "prompt": PROMPT,
        "seed": 3,
        "num_frames": 5,
        "fps": 16.0,
        "video_seconds": 5 / 16,
        "num_inference_steps": 2,
        "device": "cpu",
        "precision": "float32",
        "weights": weights.fingerprint(saved_pipeline),
    }
    assert {name: facts[name] for name in expected} == expected
    assert len(facts["denoise_step_seconds"]) == 2
    assert facts["seconds"]["denoise"] == pytest.approx(sum(facts["denoise_step_seconds"]))
    warm = sum(seconds for stage, seconds in facts["seconds"].items() if stage != "load")
    assert facts["end_to_end_seconds"] == pytest.approx(warm)
    assert facts["real_time_factor"] == pytest.approx(warm / (5 / 16))


def test_seeds_images_and_knobs_change_the_clip(saved_pipeline: Path, tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 80).save(tmp_path / "image.png")
    variants: list[tuple[object, ...]] = [
        (),
        ("--seed", 1),
        ("--guidance", 5),
        ("--image-guidance", 5),
        ("--shift", 6),
        ("--solver", "unipc"),
        ("--image", tmp_path / "image.png"),
        ("--at-once",),
    ]
    clips = []
    for i, variant in enumerate([*variants, ()]):
        result = generate(saved_pipeline, tmp_path / f"{i}.mp4", *variant)
        assert result.exit_code == 0, result.output
        clips.append((tmp_path / f"{i}.mp4").read_bytes())
    assert clips[-1] == clips[0], "same arguments, same bytes"
    assert len(set(clips)) == len(variants)


def generate_long(model: Path, output: Path, *args: object) -> Result:
    short = ("--steps", 1, "--guidance", 1, "--window", 9)
    return invoke("generate", "-o", output, "--model", model, *short, *args)


def test_a_long_video_is_written_window_by_window(
    saved_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "long.mp4"
    playable = []
    write = VideoWriter.write

    def record(writer: VideoWriter, frames: Any) -> None:
        write(writer, frames)
        playable.append(len(read_video(output)[0]))

    monkeypatch.setattr(VideoWriter, "write", record)
    result = generate_long(saved_pipeline, output, PROMPT, "--seconds", 2, "--overlap", 2, "--json")
    assert result.exit_code == 0, result.output
    assert playable == [7, 11, 15, 19, 23, 27, 30]
    frames, fps = read_video(output)
    assert frames.shape == (32, 64, 64, 3)
    assert fps == 16
    facts = json.loads(result.stdout)
    expected = {"num_frames": 32, "video_seconds": 2.0, "prompt": PROMPT, "fps": 16.0}
    assert {name: facts[name] for name in expected} == expected
    assert len(facts["window_seconds"]) == facts["entries"]["window"] == 7
    outer = sum(facts["window_seconds"]) + facts["seconds"]["file encode"]
    assert facts["end_to_end_seconds"] == pytest.approx(outer)
    assert facts["real_time_factor"] == pytest.approx(outer / 2)


def test_prompts_by_second(saved_pipeline: Path, tmp_path: Path) -> None:
    texts = {"a": f"0:{PROMPT}", "b": f"0:{PROMPT} 0.5:a large blue star", "c": f"0:{PROMPT}"}
    videos = {}
    for name, prompts in texts.items():
        result = generate_long(saved_pipeline, tmp_path / f"{name}.mp4", "--seconds", 1, "--prompts", prompts)
        assert result.exit_code == 0, result.output
        assert "real-time factor" in result.stdout
        videos[name] = read_video(tmp_path / f"{name}.mp4")[0]
    assert np.array_equal(videos["a"], videos["c"])
    assert np.array_equal(videos["a"][:9], videos["b"][:9])
    assert not np.array_equal(videos["a"][9:], videos["b"][9:])


def test_options_against_drift_reach_the_windows(saved_pipeline: Path, tmp_path: Path) -> None:
    variants: list[tuple[object, ...]] = [
        (),
        ("--no-anchor",),
        ("--history-noise", 0.2),
        ("--match-statistics",),
        ("--cross-fade", 1),
    ]
    videos = []
    for variant in variants:
        result = generate_long(
            saved_pipeline, tmp_path / "x.mp4", PROMPT, "--seconds", 1, "--overlap", 2, *variant
        )
        assert result.exit_code == 0, result.output
        videos.append((tmp_path / "x.mp4").read_bytes())
    assert len(set(videos)) == len(variants)
    alike = ("--seconds", 1, "--overlap", 2, "--chaining", "latent", "--anchor", "--cross-fade", 0)
    assert generate_long(saved_pipeline, tmp_path / "x.mp4", PROMPT, *alike).exit_code == 0
    assert (tmp_path / "x.mp4").read_bytes() == videos[0]


@pytest.mark.parametrize("windows", [0, 2])
def test_an_interrupt_leaves_what_was_made(
    saved_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: int
) -> None:
    stream = Magic141Pipeline.stream

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        yield from itertools.islice(stream(*args, **kwargs), windows)
        raise KeyboardInterrupt

    monkeypatch.setattr(Magic141Pipeline, "stream", interrupted)
    output = tmp_path / "long.mp4"
    result = generate_long(saved_pipeline, output, PROMPT, "--seconds", 60)
    assert result.exit_code == 130
    assert result.stdout == ""
    if windows:
        assert f"interrupted: {output} holds 1.06 s and plays" in result.stderr
        assert len(read_video(output)[0]) == 17
    else:
        assert "interrupted: nothing is written" in result.stderr
        assert not output.exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--frames", 30), "num_frames=30 must be 4k+1 (1, 5, 9, …, 33, …): try 29 or 33"),
        (("--steps", 0), "num_inference_steps=0 must lie in 1..1000"),
        (("--fps", 0), "fps=0.0 must lie in 1..240"),
        (("--seed", -1), "seed=-1 must lie in 0..2^63-1"),
        (("--guidance", -1), "guidance_scale=-1.0"),
        (("--image-guidance", -1), "image_guidance_scale=-1.0"),
        (("--shift", 0), "shift=0.0"),
        (("--seconds", 0), "seconds=0.0 must lie above 0 and up to 86400"),
        (("--seconds", -3), "seconds=-3.0 must lie above 0"),
        (("--seconds", "nan"), "seconds=nan must lie above 0"),
        (("--seconds", 60, "--window", 30), "window=30 must be 4k+1 frames from 5 up: try 29 or 33"),
        (("--seconds", 60, "--overlap", 0), "overlap=0 must lie in 1..8"),
        (("--seconds", 60, "--overlap", 9), "overlap=9 must lie in 1..8"),
        (("--seconds", 60, "--fps", 24), "--seconds makes 16 frames a second: leave --fps and --frames out"),
        (("--seconds", 60, "--prompts", "20:a red ring 0:a blue star"), "starts at second 20"),
        (("--seconds", 60, "--prompts", "0:a red ring 5:a blue star 3:a star"), "3 s follows 5 s"),
        (("--seconds", 60, "--prompts", ""), "a second, a colon and a prompt each"),
        (("--seconds", 60, "--prompts", "0:a red ring 20:"), "have nothing at 20 s"),
        (
            ("--seconds", 60, "--prompts", "0:a red ring 60:a star"),
            "a prompt at 60 s, and the video ends at 60 s",
        ),
        (("--seconds", 60, "--prompts", "0:a red ring 5:a zebra"), "'zebra'"),
        (("--window", 33), "--window 33 is for long videos: give --seconds as well"),
        (("--overlap", 1), "--overlap 1 is for long videos"),
        (("--history-noise", 0.1), "--history-noise 0.1 is for long videos"),
        (("--seconds", 60, "--history-noise", 2), "history_noise=2.0 must lie in 0..1"),
        (("--seconds", 60, "--cross-fade", 1), "cross_fade=1 must lie in 0..0"),
        (
            ("--seconds", 60, "--chaining", "frame", "--overlap", 2),
            "overlap=2 must be 1 with chaining='frame'",
        ),
        (("--prompts", "0:a red ring"), "--prompts 0:a red ring is for long videos"),
        (("--model", "lba"), "unknown preset 'lba': did you mean 'lab'?"),
        (("--model", "./nothing"), "no weights at './nothing'"),
        (("--image", "missing.png"), "cannot read an image from 'missing.png'"),
        (("--image", "{here}/text.png"), "Give a PNG, JPEG or WebP file"),
        (("--at-once", "--image", "picture.png"), "leave --image picture.png out"),
        (("--at-once", "--seconds", 60), "leave --seconds 60.0 out"),
        (("-o", "{here}/clip.gif"), "must end in .mp4"),
        (("-o", "{here}"), "must end in .mp4"),
        (("-o", "{here}/nowhere/clip.mp4"), "does not exist: create it first"),
    ],
)
def test_bad_arguments_are_refused_before_loading(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    saved_pipeline: Path,
    args: tuple[object, ...],
    message: str,
) -> None:
    monkeypatch.setattr("magic141.__main__.load", refuse_to_load)
    (tmp_path / "text.png").write_text("no image")
    before = sorted(tmp_path.iterdir())
    filled = [str(arg).replace("{here}", str(tmp_path)) for arg in args]
    prompt = () if "--prompts" in filled else (PROMPT,)
    result = invoke("generate", *prompt, "-o", tmp_path / "clip.mp4", "--model", saved_pipeline, *filled)
    assert result.exit_code == 2
    assert "error: " in result.stderr
    assert message in result.stderr
    assert result.stdout == ""
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--device", "quantum"), "device 'quantum' cannot be used"),
        (("--device", "cuda:77"), "device 'cuda:77' cannot be used"),
        (("--device", "meta"), "device 'meta' holds no numbers"),
        (("--image", "{here}/wide.png"), "64x64 pixels): resize it first"),
    ],
)
def test_bad_arguments_that_only_the_pipeline_knows(
    tmp_path: Path, saved_pipeline: Path, args: tuple[object, ...], message: str
) -> None:
    Image.fromarray(np.zeros((64, 128, 3), np.uint8)).save(tmp_path / "wide.png")
    filled = [str(arg).replace("{here}", str(tmp_path)) for arg in args]
    result = generate(saved_pipeline, tmp_path / "clip.mp4", *filled)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "clip.mp4").exists()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "has no words"),
        ("a zebra", "'zebra'"),
        ("a smoll red ring", "nearest known: small"),
        ("a small red ring drifting slow", "nearest known: snow, yellow, down)"),
        (" ".join(["red"] * 39), "39 words, the limit is 38"),
    ],
)
def test_bad_prompts_are_refused_before_loading(
    saved_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompt: str, message: str
) -> None:
    monkeypatch.setattr("magic141.__main__.load", refuse_to_load)
    result = invoke("generate", prompt, "-o", tmp_path / "clip.mp4", "--model", saved_pipeline)
    assert result.exit_code == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("prompt", "warned"), [(f"{PROMPT} quickly", True), (f"{PROMPT}, Quickly.", True), (PROMPT, False)]
)
def test_words_that_the_shipped_weights_make_noise_of_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompt: str, warned: bool
) -> None:
    monkeypatch.setattr("magic141.__main__.load", refuse_to_load)
    result = invoke("generate", prompt, "-o", tmp_path / "clip.mp4", "--model", "lab")
    assert ("warning: lab was never taught 'quickly'" in result.stderr) == warned


def test_something_must_be_shown(saved_pipeline: Path, tmp_path: Path) -> None:
    result = invoke("generate", "-o", tmp_path / "clip.mp4", "--model", saved_pipeline)
    assert result.exit_code == 2
    assert "error: nothing says what the video shows: give a PROMPT" in result.stderr


def test_it_is_said_once_what_is_shown(saved_pipeline: Path, tmp_path: Path) -> None:
    words = ("generate", PROMPT, "--prompts", f"0:{PROMPT}", "--seconds", 3, "-o", tmp_path / "clip.mp4")
    result = invoke(*words, "--model", saved_pipeline)
    assert result.exit_code == 2
    assert "both say what the video shows" in result.stderr


def test_no_traceback_at_the_door(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "magic141", "generate", PROMPT, "-o", "clip.mp4", "--frames", "30"]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: num_frames=30")
    assert "Traceback" not in done.stderr


def test_weights_are_sealed_and_verified(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / weights.INDEX).write_text("{}")
    model = tmp_path / "vae" / "model.safetensors"
    model.write_bytes(b"tensor")
    assert "error: " in invoke("weights", "verify", tmp_path).stderr, "not sealed yet"
    assert invoke("weights", "seal", tmp_path).exit_code == 0
    verified = invoke("weights", "verify", tmp_path)
    assert verified.exit_code == 0
    assert "2 files are as sealed" in verified.stdout
    model.write_bytes(b"tensoR")
    damaged = invoke("weights", "verify", tmp_path)
    assert damaged.exit_code == 2
    assert "model.safetensors has sha256" in damaged.stderr


def test_a_precision_is_of_all_but_the_vae(saved_pipeline: Path) -> None:
    pipe = load(saved_pipeline, "cpu", Precision.bfloat16)
    found = [part.dtype for part in (pipe.transformer, pipe.text_encoder, pipe.vae)]
    assert found == [torch.bfloat16, torch.bfloat16, torch.float32]
