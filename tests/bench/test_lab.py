import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.baselines.lab import Lab
from bench.baselines.longvideo import LongTruth, LongVideo
from bench.errors import InvalidOutputError, SuiteError, UnsupportedError
from bench.measure import Stopwatch
from bench.prompts import PromptSpec
from bench.records import MASKED
from bench.suite import parse
from bench.systems import Output, Request, check_output, knobs_of, make
from magic141.data.render import render
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
    assert output.first_frames is None  # frame 0 is the picture that text to image drew: no score of its own
    assert {name: len(values) for name, values in stopwatch.samples.items()} == {
        "text encode": 1,
        "image": 1,
        "image encode": 1,
        "denoise": 2,
        "vae decode": 1,
    }
    alone = lab.generate(REQUESTS[1:], Stopwatch()).frames[0]
    assert np.abs(alone.astype(int) - output.frames[1]).max() <= 1  # a clip does not depend on its batch


def test_another_solver_takes_the_place_of_the_models_own(untrained: Path) -> None:
    own, other = (
        Lab(num_inference_steps=3, num_frames=5, precision="fp32", solver=solver)
        for solver in (None, "unipc")
    )
    clips = []
    for lab in (own, other):
        lab.load()
        clips.append(lab.generate(REQUESTS, Stopwatch()).frames)
    check_output(Output(clips[1]), 2)
    assert not np.array_equal(*clips)


def test_what_was_asked_before_solvers_could_be_chosen_is_still_the_same_question() -> None:
    adapter = "bench.baselines.lab:Lab"
    plain, said, chosen = (
        knobs_of(make(adapter, knobs)) for knobs in ({}, {"solver": None}, {"solver": "unipc"})
    )
    assert "solver" not in plain
    assert plain == said
    assert chosen == plain | {"solver": "unipc"}
    with pytest.raises(SuiteError, match="solver"):
        make(adapter, {"solver": "heun"})


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


def test_pruned_layers_are_smaller_and_masked_ones_are_not(untrained: Path) -> None:
    sizes = {}
    for sparsity in ("none", "structured-0.5", "unstructured-0.5"):
        lab = Lab(sparsity=sparsity, num_inference_steps=1, num_frames=5, precision="fp32", batch_size=1)
        lab.load()
        check_output(lab.generate(REQUESTS[:1], Stopwatch()), 1)
        facts = lab.facts()
        sizes[sparsity] = facts.parameter_bytes or 0
        assert facts.flags == ((MASKED,) if sparsity.startswith("unstructured") else ())
    assert sizes["structured-0.5"] < 0.7 * sizes["none"]
    assert sizes["unstructured-0.5"] == sizes["none"]
    assert Lab(sparsity="structured-0.5").seconds_per_clip() < Lab().seconds_per_clip()


def test_parts_go_by_the_criterion_that_is_asked(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from magic141.train import calibrate

    monkeypatch.setattr(calibrate, "SCENES", 8)
    kept = {}
    for criterion in ("magnitude", "activation"):
        lab = Lab(sparsity="structured-0.5", criterion=criterion, num_inference_steps=1, precision="bf16")
        lab.load()
        kept[criterion] = lab._pipeline.transformer.single_transformer_blocks[0].to_qkv.weight
    assert kept["magnitude"].shape == kept["activation"].shape
    assert (kept["magnitude"] != kept["activation"]).any()


def test_what_this_machine_cannot_sparsify_is_unsupported(untrained: Path) -> None:
    with pytest.raises(UnsupportedError, match="2:4 kernels need an NVIDIA GPU"):
        Lab(sparsity="2:4", precision="fp32").load()


def test_long_video_comes_in_windows(untrained: Path) -> None:
    knobs = {"seconds": 2, "num_inference_steps": 1, "guidance_scale": 1, "precision": "fp32"}
    lab = LongVideo(**knobs, window=17, overlap=2, history_noise=0.1, match_statistics=True, cross_fade=1)
    assert (lab.num_frames, lab.anchor) == (32, True)
    lab.load()
    stopwatch = Stopwatch()
    output = lab.generate(REQUESTS, stopwatch)
    check_output(output, 2)
    assert output.frames.shape == (2, 32, 64, 64, 3)
    assert output.starts == (0, 17, 29)
    assert len(stopwatch.samples["window"]) == 6
    assert (lab.generate(REQUESTS[1:], Stopwatch()).frames[0] == output.frames[1]).all()
    whole = LongVideo(**knobs, windows="one", task="image to video")
    whole.load()
    output = whole.generate(REQUESTS[:1], stopwatch)
    assert output.frames.shape == (1, 32, 64, 64, 3)
    assert output.starts == ()
    assert output.first_frames is not None
    whole._pipeline.vae.decode = lambda latents: torch.full((len(latents), 3, 33, 64, 64), math.nan)
    with pytest.raises(InvalidOutputError, match="not finite"):
        whole.generate(REQUESTS[:1], stopwatch)


def test_long_truth_is_the_scene_for_as_long() -> None:
    truth = LongTruth(seconds=5)
    output = truth.generate(REQUESTS, Stopwatch())
    assert output.frames.shape == (2, 80, 64, 64, 3)
    clip = render([SCENES[0][1]], 33)[0].numpy()
    assert (output.frames[0, :33] == clip).all()


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"window": 32}, "window=32 must be 4k"),
        ({"overlap": 9}, "overlap=9 must lie in 1..8"),
        ({"seconds": 0}, "seconds=0.0 must lie above 0"),
        ({"cross_fade": 1}, "cross_fade=1 must lie in 0..0"),
        ({"history_noise": 2}, "history_noise=2.0 must lie in 0..1"),
        ({"chaining": "frame", "overlap": 2}, "overlap=2 must be 1 with chaining='frame'"),
        ({"sparsity": "structured-1"}, r"ratio=1.0 must lie in \[0, 1\)"),
        ({"num_frames": 33}, "no knob 'num_frames'"),
    ],
)
def test_bad_windows_are_refused_before_anything_is_loaded(knobs: dict[str, object], said: str) -> None:
    with pytest.raises(SuiteError, match=said):
        make("bench.baselines.longvideo:LongVideo", knobs)


def test_absent_weights_are_an_outcome(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing):
        Lab(model=str(tmp_path / "none")).weights()
