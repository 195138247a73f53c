from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.baselines.lab import Lab
from bench.errors import SuiteError, UnsupportedError
from bench.measure import Stopwatch
from bench.suite import PromptSpec, parse
from bench.systems import Request, check_output
from magic141.errors import InputError, WeightsMissing

SCENES = PromptSpec(split="test", count=2).scenes()
REQUESTS = [Request(index, prompt, index, scene) for index, (prompt, scene) in enumerate(SCENES)]


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A weights directory with an untrained `lab`."""
    import dataclasses

    import torch

    from magic141 import AutoencoderMagic141, FlowMatchScheduler, Magic141Pipeline, Magic141Transformer3DModel
    from magic141.conditioning import make_text_image_model, make_tokenizer
    from magic141.presets import LAB

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    Magic141Pipeline(
        Magic141Transformer3DModel(**dataclasses.asdict(LAB.transformer)),
        AutoencoderMagic141(),
        make_text_image_model(),
        make_tokenizer(),
        FlowMatchScheduler(),
    ).save_pretrained(folder / "lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAGIC141_WEIGHTS", str(folder))
        yield folder


def test_text_to_video_passes_all_stages(untrained: Path) -> None:
    lab = Lab(num_inference_steps=2, num_frames=5, precision="fp32")
    assert lab.weights() is not None
    lab.load()
    stopwatch = Stopwatch()
    output = lab.generate(REQUESTS, stopwatch)
    check_output(output, 2)
    assert output.frames.shape == (2, 5, 64, 64, 3)
    assert output.first_frames is not None  # the picture that text to image drew
    assert output.first_frames.shape == output.frames[:, 0].shape
    assert {name: len(values) for name, values in stopwatch.samples.items()} == {
        "text encode": 1,
        "image": 1,
        "image encode": 1,
        "denoise": 2,
        "vae decode": 1,
    }
    alone = lab.generate(REQUESTS[1:], Stopwatch()).frames[0]
    assert np.abs(alone.astype(int) - output.frames[1]).max() <= 1  # a clip does not depend on its batch


def test_text_to_video_at_once_draws_no_picture(untrained: Path) -> None:
    lab = Lab(task="text to video at once", num_inference_steps=2, num_frames=5, precision="fp32")
    lab.load()
    stopwatch = Stopwatch()
    output = lab.generate(REQUESTS, stopwatch)
    check_output(output, 2)
    assert output.frames.shape == (2, 5, 64, 64, 3)
    assert output.first_frames is None
    counts = {name: len(values) for name, values in stopwatch.samples.items()}
    assert counts == {"text encode": 1, "denoise": 2, "vae decode": 1}
    with pytest.raises(InputError, match="leave the image out"):
        lab._pipeline(prompt="a red circle", image=np.zeros((64, 64, 3), np.uint8), factorised=False)


def test_image_to_video_starts_from_the_true_frame(untrained: Path) -> None:
    lab = Lab(task="image to video", num_inference_steps=1, num_frames=5, precision="bf16")
    lab.load()
    stopwatch = Stopwatch()
    output = lab.generate(REQUESTS, stopwatch)
    assert "image" not in stopwatch.samples
    assert output.first_frames is not None
    assert output.first_frames.shape == (2, 64, 64, 3)
    with pytest.raises(UnsupportedError, match="prompts of the lab world"):
        lab.generate([Request(0, "a red circle", 0)], stopwatch)


def test_knobs_are_checked_before_anything_is_loaded() -> None:
    def suite(**knobs: object) -> None:
        systems = {"lab": {"adapter": "bench.baselines.lab:Lab", "knobs": knobs}}
        prompts = {"split": "test", "count": 1}
        parse(
            {"name": "s", "systems": systems, "prompts": prompts, "metrics": ["accuracy-mean"]}, "s"
        ).cells()

    with pytest.raises(SuiteError, match="num_inference_steps=0 must lie in"):
        suite(num_inference_steps=0)
    with pytest.raises(SuiteError, match="num_frames=30 must be 4k"):
        suite(num_frames=30)
    with pytest.raises(SuiteError, match="shift"):
        suite(shift=-1)
    with pytest.raises(SuiteError, match="task='video'"):
        suite(task="video")


def test_absent_weights_are_an_outcome(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing):
        Lab(model=str(tmp_path / "none")).weights()
