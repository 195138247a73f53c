"""The adapter of any diffusers folder: on a scripted pipeline, and on a real one at test scale."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.baselines.diffusers_folder import DiffusersFolder
from bench.baselines.peers import Peer
from bench.errors import UnsupportedError
from bench.measure import Stopwatch
from bench.systems import Request
from magic141.errors import WeightsMissing

REQUESTS = [Request(0, "a red circle", 1), Request(1, "a blue square", 2)]


class Part:
    def __init__(self) -> None:
        self.calls = 0

    def forward(self) -> None:
        self.calls += 1

    step = decode = forward


class Pipeline:
    """Two passes a step, as guidance makes them."""

    def __init__(self) -> None:
        self.transformer, self.scheduler, self.vae = Part(), Part(), Part()

    def encode_prompt(self, prompt: list[str]) -> None: ...

    def __call__(
        self, prompt: list[str], generator: list[Any], output_type: str, num_inference_steps: int = 50
    ) -> SimpleNamespace:
        self.encode_prompt(prompt)
        for _ in range(num_inference_steps):
            self.transformer.forward()
            self.transformer.forward()
            self.scheduler.step()
        self.vae.decode()
        seeds = [one.initial_seed() for one in generator]
        frames = [np.random.default_rng(seed).random((5, 8, 8, 3)) for seed in seeds]
        return SimpleNamespace(frames=np.stack(frames))


def test_stages_of_any_pipeline_are_marked() -> None:
    system = DiffusersFolder(num_inference_steps=3)
    system._pipeline = Pipeline()  # type: ignore[assignment]
    stopwatch = Stopwatch()
    output = system.generate(REQUESTS, stopwatch)
    assert output.frames.shape == (2, 5, 8, 8, 3)
    counts = {name: len(values) for name, values in stopwatch.samples.items()}
    assert counts == {"text encode": 1, "denoise": 3, "vae decode": 1}
    assert system._pipeline.transformer.calls == 6
    assert "forward" not in vars(system._pipeline.transformer)  # it is left as it was
    assert np.array_equal(system.generate(REQUESTS[:1], Stopwatch()).frames[0], output.frames[0])


def test_a_knob_that_the_pipeline_does_not_take_is_unsupported() -> None:
    system = DiffusersFolder(height=64)
    system._pipeline = Pipeline()  # type: ignore[assignment]
    with pytest.raises(UnsupportedError, match="Pipeline takes no height"):
        system.generate(REQUESTS, Stopwatch())


def test_weights_are_hashed_by_content(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"no model_index\.json"):
        DiffusersFolder(model=str(tmp_path)).weights()
    with pytest.raises(WeightsMissing, match="save_pretrained"):
        DiffusersFolder().weights()
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "model.safetensors").write_bytes(b"1")
    first = DiffusersFolder(model=str(tmp_path)).weights()
    assert first is not None
    assert len(first) == 64
    assert DiffusersFolder(model=str(tmp_path)).weights() == first
    (tmp_path / "vae" / "model.safetensors").write_bytes(b"2")
    assert DiffusersFolder(model=str(tmp_path)).weights() != first


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real pipeline at test scale, saved as its users save one."""
    peer = Peer(system="wan-2.1-1.3b", mode="tiny")
    peer.load()
    folder = tmp_path_factory.mktemp("wan")
    peer._pipeline.save_pretrained(folder)
    return folder


SIZE = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 2}


def test_a_real_pipeline_is_loaded_and_timed_stage_by_stage(wan: Path) -> None:
    system = DiffusersFolder(model=str(wan), guidance_scale=3.0, precision="fp32", **SIZE)
    assert len(system.weights() or "") == 64
    system.load()
    stopwatch = Stopwatch()
    output = system.generate(REQUESTS, stopwatch)
    assert output.frames.shape == (2, 5, 32, 32, 3)
    assert output.frames.dtype == np.uint8
    counts = {name: len(values) for name, values in stopwatch.samples.items()}
    assert counts == {"text encode": 1, "denoise": 2, "vae decode": 1}
    alone = system.generate(REQUESTS[1:], Stopwatch()).frames
    assert abs(alone.astype(int) - output.frames[1:]).max() <= 1  # a clip does not depend on its batch


def test_a_peer_of_mode_real_takes_such_a_folder(wan: Path) -> None:
    peer = Peer(system="wan-2.1-1.3b", mode="real", model=str(wan), precision="fp32", **SIZE)
    assert peer.weights()
    assert peer.flags == ()
    peer.load()
    asked: dict[str, Any] = {}
    pipeline = peer._pipeline
    peer._pipeline = lambda **words: asked.update(words) or pipeline(**words)
    peer._pipeline.text_encoder = pipeline.text_encoder
    assert peer.generate(REQUESTS, Stopwatch()).frames.shape == (2, 5, 32, 32, 3)
    assert asked["negative_prompt"] == [peer.recipe.negative_prompt] * 2
    assert asked["negative_prompt"][0].startswith("色调艳丽")
