import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from magic141 import stages, weights
from magic141.conditioning import IMAGE_TOKENS, USUAL_LENGTH, encode_image, known_channels
from magic141.errors import InputError, WeightsCorrupt, WeightsMissing
from magic141.images import as_pixels
from magic141.pipeline import Magic141Pipeline
from magic141.scheduler import FewStepScheduler

PROMPT = "a small red ring drifting left over dark stripes"
OTHER = "a large blue star drifting right over pale speckle"
STEPS = 3
Seeded = Callable[[int], torch.Generator]
same_pipe = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def run(pipe: Magic141Pipeline, **kwargs: Any) -> Any:
    defaults = {"prompt": PROMPT, "num_frames": 5, "num_inference_steps": STEPS, "output_type": "latent"}
    return pipe(**(defaults | {"generator": torch.Generator().manual_seed(0)} | kwargs)).frames


@pytest.fixture
def calls(pipe: Magic141Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """What the transformer of `pipe` is called with, call by call."""
    seen: list[dict[str, Tensor]] = []
    forward = pipe.transformer.forward

    def record(**kwargs: Any) -> Any:
        seen.append({name: value for name, value in kwargs.items() if isinstance(value, Tensor)})
        return forward(**kwargs)

    monkeypatch.setattr(pipe.transformer, "forward", record)
    return seen


def test_output_types(pipe: Magic141Pipeline) -> None:
    prompts = [PROMPT, OTHER]
    array = run(pipe, prompt=prompts, output_type="np")
    assert (array.shape, array.dtype) == ((2, 5, 64, 64, 3), np.float32)
    assert array.min() >= 0
    assert array.max() <= 1
    tensor = run(pipe, prompt=prompts, output_type="pt")
    assert np.array_equal(tensor.permute(0, 1, 3, 4, 2).numpy(), array)
    pictures = run(pipe, prompt=prompts, output_type="pil")
    assert np.abs(np.asarray(pictures[1][4]) / 255 - array[1, 4]).max() <= 0.5 / 255 + 1e-6
    assert run(pipe, prompt=prompts).shape == (2, 16, 2, 8, 8)
    (first,) = pipe(PROMPT, num_frames=5, num_inference_steps=1, return_dict=False)
    assert first.shape == (1, 5, 64, 64, 3)


@pytest.mark.parametrize("num_frames", [1, 5, 33])
def test_frames(pipe: Magic141Pipeline, num_frames: int) -> None:
    assert run(pipe, num_frames=num_frames, output_type="np").shape == (1, num_frames, 64, 64, 3)


def test_size(pipe: Magic141Pipeline) -> None:
    assert run(pipe, height=32, width=48, output_type="np").shape == (1, 5, 32, 48, 3)


def test_same_seed_same_bytes(pipe: Magic141Pipeline, seeded: Seeded) -> None:
    first = run(pipe, generator=seeded(1))
    assert torch.equal(first, run(pipe, generator=seeded(1)))
    assert not torch.allclose(first, run(pipe, generator=seeded(2)))


@pytest.mark.parametrize("image", [None, picture()])
def test_a_generator_each_makes_clips_independent_of_their_batch(
    pipe: Magic141Pipeline, seeded: Seeded, image: np.ndarray | None
) -> None:
    both = run(pipe, prompt=[PROMPT, OTHER], image=image, generator=[seeded(1), seeded(2)])
    for i, (prompt, seed) in enumerate([(PROMPT, 1), (OTHER, 2)]):
        alone = run(pipe, prompt=prompt, image=image, generator=seeded(seed))
        torch.testing.assert_close(both[i : i + 1], alone, rtol=0, atol=1e-4)
    assert not torch.allclose(both[0], both[1], atol=0.1)


def test_text_to_image_to_video(pipe: Magic141Pipeline, calls: list[dict[str, Tensor]]) -> None:
    """First one frame of which nothing is known, told by text alone; then a clip whose first frame is known."""
    run(pipe, guidance_scale=1)
    assert len(calls) == 2 * STEPS
    for call in calls[:STEPS]:
        assert call["hidden_states"].shape == (1, 33, 1, 8, 8)
        assert call["hidden_states"][:, 16:].abs().max() == 0
        assert call["encoder_hidden_states"].shape[1] == USUAL_LENGTH
    for call in calls[STEPS:]:
        assert call["hidden_states"].shape == (1, 33, 2, 8, 8)
        assert call["encoder_hidden_states"].shape[1] == IMAGE_TOKENS + USUAL_LENGTH


def test_an_array_seen_backwards_is_an_image() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert torch.equal(as_pixels(frame[..., ::-1], 1, 64, 64), as_pixels(frame[..., ::-1].copy(), 1, 64, 64))


@given(steps=st.integers(1, 6), shift=st.floats(0.2, 8), seed=st.integers(0, 99))
@settings(same_pipe, max_examples=10)
def test_known_frame(pipe: Magic141Pipeline, steps: int, shift: float, seed: int) -> None:
    """Frame 0 enters clean beside a mask, is noised as in training at every step, and leaves clean."""
    image = picture(seed)
    pixels = as_pixels(image, 1, 64, 64)
    with torch.no_grad():
        clean = pipe.vae.encode(pixels.unsqueeze(2))
        tokens = encode_image(pipe.text_encoder, pixels)
    noise = torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    seen = []
    forward = type(pipe.transformer).forward

    def record(**kwargs: Any) -> Any:
        seen.append(kwargs)
        return forward(pipe.transformer, **kwargs)

    pipe.transformer.forward = record
    arguments = {"num_frames": 9, "num_inference_steps": steps, "shift": shift}
    result = run(pipe, image=image, latents=noise, **arguments)
    assert len(seen) == steps
    for call in seen:
        x = call["hidden_states"]
        t = call["timestep"][0] / 1000
        assert torch.equal(x[0], x[1]), "both halves of the guided batch keep the image condition"
        torch.testing.assert_close(x[:1, :16, :1], (1 - t) * clean + t * noise[:, :, :1], rtol=0, atol=1e-4)
        assert torch.equal(x[:1, 16:32, :1], clean)
        assert x[:, 16:32, 1:].abs().max() == 0
        assert x[:, 32, 0].min() == 1
        assert x[:, 32, 1:].max() == 0
        assert torch.equal(call["encoder_hidden_states"][:, :IMAGE_TOKENS], tokens.expand(2, -1, -1))
    assert torch.equal(result[:, :, :1], clean)


@given(steps=st.integers(1, 20), shift=st.floats(0.2, 8), guidance=st.sampled_from([1, 3.5]))
@settings(same_pipe, max_examples=15)
def test_straight_paths_are_followed_exactly(
    pipe: Magic141Pipeline, steps: int, shift: float, guidance: float
) -> None:
    """A model that always answers `eps - x0` leads to x0 for every number of steps, shift and guidance."""
    noise, target = torch.randn(2, 1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    pipe.transformer.forward = lambda hidden_states, **_: (
        (noise - target).repeat(len(hidden_states), 1, 1, 1, 1),
    )
    result = run(
        pipe, num_frames=1, latents=noise, num_inference_steps=steps, shift=shift, guidance_scale=guidance
    )
    torch.testing.assert_close(result, target, rtol=0, atol=1e-4)


def test_guidance_is_one_batched_pass(pipe: Magic141Pipeline, calls: list[dict[str, Tensor]]) -> None:
    run(pipe, image=picture(), guidance_scale=1)
    assert [len(call["timestep"]) for call in calls] == [1] * STEPS
    calls.clear()
    run(pipe, image=picture(), guidance_scale=3)
    assert [len(call["timestep"]) for call in calls] == [2] * STEPS


def test_a_student_needs_no_guidance_and_noises_afresh(
    pipe: Magic141Pipeline, calls: list[dict[str, Tensor]]
) -> None:
    """Text to image to video at 4 + 4 steps, as `--model lab-student --steps 4` asks for it: one row a pass."""
    pipe.scheduler = FewStepScheduler(shift=3.0, guidance_scale=1.0)
    first, again, other = (
        run(pipe, num_inference_steps=4, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    )
    assert [len(call["hidden_states"]) for call in calls] == [1] * 3 * (4 + 4)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_baseline_makes_a_clip_at_once(pipe: Magic141Pipeline, calls: list[dict[str, Tensor]]) -> None:
    run(pipe, factorised=False)
    assert [call["hidden_states"].shape for call in calls] == [(2, 33, 2, 8, 8)] * STEPS
    assert all(call["hidden_states"][:, 16:].abs().max() == 0 for call in calls)
    with pytest.raises(InputError, match="leave the image out"):
        run(pipe, factorised=False, image=picture())


@pytest.mark.parametrize(
    ("kind", "tokens", "latent"), [("latent_only", 0, True), ("tokens_only", IMAGE_TOKENS, False)]
)
def test_a_model_is_shown_the_part_of_the_prior_that_it_knows(
    pipe: Magic141Pipeline, calls: list[dict[str, Tensor]], kind: str, tokens: int, latent: bool
) -> None:
    pipe.transformer.register_to_config(image_condition_type=kind)
    run(pipe, image=picture(), guidance_scale=1)
    for call in calls:
        assert call["encoder_hidden_states"].shape[1] == USUAL_LENGTH + tokens
        assert call["hidden_states"][:, 16:].any() == latent


def test_guidance_extrapolates(pipe: Magic141Pipeline) -> None:
    """One step from the same noise is linear in the velocity, so in the guidance scale as well."""
    noise = torch.randn(1, 16, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    steps = {"image": picture(), "latents": noise, "num_inference_steps": 1}
    at = {w: run(pipe, guidance_scale=w, **steps) for w in (0.0, 1.0, 4.0)}
    torch.testing.assert_close(at[4.0], at[0.0] + 4 * (at[1.0] - at[0.0]), rtol=0, atol=1e-4)
    assert not torch.allclose(at[0.0], at[1.0], atol=1e-3)
    swapped = run(pipe, prompt=OTHER, negative_prompt=PROMPT, guidance_scale=0.0, **steps)
    torch.testing.assert_close(swapped, at[1.0], rtol=0, atol=1e-5)


def test_image_guidance(pipe: Magic141Pipeline, calls: list[dict[str, Tensor]]) -> None:
    """Text to image may be guided apart from image to video."""
    run(pipe, guidance_scale=1, image_guidance_scale=2)
    assert [len(call["timestep"]) for call in calls] == [2] * STEPS + [1] * STEPS
    calls.clear()
    run(pipe, guidance_scale=2, image_guidance_scale=1)
    assert [len(call["timestep"]) for call in calls] == [1] * STEPS + [2] * STEPS


def test_text_matters(pipe: Magic141Pipeline) -> None:
    still = {"image": picture(), "guidance_scale": 1}
    assert not torch.allclose(run(pipe, **still), run(pipe, prompt=OTHER, **still), atol=1e-3)


def test_frames_can_be_given_back(pipe: Magic141Pipeline, tmp_path: Path) -> None:
    image = picture()
    Image.fromarray(image).save(tmp_path / "image.png")
    expected = run(pipe, image=image)
    floats = torch.from_numpy(image).float() / 255
    forms = [
        tmp_path / "image.png",
        str(tmp_path / "image.png"),
        Image.fromarray(image),
        torch.from_numpy(image),
        floats.numpy(),
        floats.permute(2, 0, 1),
        [image],
        image[None],
    ]
    for form in forms:
        assert torch.equal(run(pipe, image=form), expected), type(form)


def test_step_callback(pipe: Magic141Pipeline) -> None:
    seen = []

    def look(_: Magic141Pipeline, step: int, timestep: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        seen.append((step, float(timestep), kwargs["latents"].shape))
        return {}

    plain = run(pipe, shift=1.0, num_inference_steps=2, callback_on_step_end=look)
    assert seen == [(0, 1000.0, (1, 16, 2, 8, 8)), (1, 500.0, (1, 16, 2, 8, 8))]
    zeroed = run(pipe, callback_on_step_end=lambda *args: {"latents": torch.zeros_like(args[3]["latents"])})
    assert zeroed[:, :, 1:].abs().max() == 0
    assert plain[:, :, 1:].abs().max() > 0


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"output_type": "np"}, ["text encode", "image", "image encode", *["denoise"] * STEPS, "vae decode"]),
        ({"image": picture()}, ["text encode", "image encode", *["denoise"] * STEPS]),
        ({"num_frames": 1, "output_type": "np"}, ["text encode", "image", "vae decode"]),
    ],
)
def test_stages(pipe: Magic141Pipeline, kwargs: dict[str, Any], expected: list[str]) -> None:
    order = []
    clock = stages.StageClock()

    @contextmanager
    def hook(stage: str) -> Iterator[None]:
        order.append(stage)
        with clock(stage):
            yield

    pipe.stage_hook = hook
    run(pipe, **kwargs)
    assert order == expected
    assert {stage: len(samples) for stage, samples in clock.seconds.items()} == {
        s: order.count(s) for s in order
    }
    assert all(sample > 0 for samples in clock.seconds.values() for sample in samples)


def test_clock_waits_for_the_device_at_both_edges() -> None:
    waits: list[str] = []
    clock = stages.StageClock(synchronize=lambda: waits.append("wait"))
    with clock("denoise"):
        waits.append("work")
    assert waits == ["wait", "work", "wait"]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"prompt": ""}, "has no words"),
        ({"prompt": []}, "empty list"),
        ({"prompt": [PROMPT, 3]}, "must be text"),
        ({"prompt": " ".join(["red"] * 39)}, "39 words, the limit is 38"),
        ({"prompt": "a smoll red ring"}, "'smoll' .nearest known: small"),
        ({"prompt": [PROMPT, "a zebra"]}, "'zebra'"),
        ({"negative_prompt": "a zebra"}, "'zebra'"),
        ({"negative_prompt": [PROMPT] * 3}, "3 negative prompts for 1 prompts"),
        ({"num_frames": 30}, "num_frames=30 must be 4k.1 .*try 29 or 33"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"num_frames": 33.0}, "num_frames=33.0 must be a whole number"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 must lie in 1..1000"),
        ({"guidance_scale": -1.0}, "guidance_scale=-1.0"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan"),
        ({"image_guidance_scale": float("inf")}, "image_guidance_scale=inf"),
        ({"shift": 0.0}, "shift=0.0"),
        ({"height": 60}, "height=60 must be a positive multiple of 16: try 64"),
        ({"width": 0}, "width=0"),
        ({"output_type": "gif"}, "output_type='gif' is unknown"),
        ({"generator": [torch.Generator()] * 2}, "2 generators for 1 prompts"),
        ({"latents": torch.zeros(1, 16, 9, 8, 8)}, r"latents have shape .1, 16, 9, 8, 8. and must have"),
        ({"image": picture(), "num_frames": 1}, "leaves nothing to generate"),
        ({"image": picture()[:32]}, r"must have \(64, 64, 3\)"),
        ({"image": torch.zeros(64, 64, 3)}, r"must have \(3, 64, 64\)"),
        ({"image": Image.new("RGB", (100, 80))}, r"64x64 pixels.*resize"),
        ({"image": np.zeros((64, 64, 3), np.int64)}, "int64: convert it to uint8"),
        ({"image": np.full((64, 64, 3), -1.0)}, r"span \[-1, -1\]"),
        ({"image": np.full((64, 64, 3), np.nan)}, "floats must lie in"),
        ({"image": 7}, "got int"),
        ({"image": []}, "0 images for 1 prompts"),
        ({"image": [picture()] * 3}, "3 images for 1 prompts"),
        ({"image": "missing.png"}, "cannot read an image from 'missing.png'"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    pipe: Magic141Pipeline, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any], message: str
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("work began")

    for module, name in [(pipe.transformer, "forward"), (pipe.vae, "encode"), (pipe.vae, "decode")]:
        monkeypatch.setattr(module, name, work)
    for tower in (pipe.text_encoder.text_model, pipe.text_encoder.vision_model):
        monkeypatch.setattr(tower, "forward", work)
    with pytest.raises(InputError, match=message):
        run(pipe, **kwargs)


def test_save_and_load(pipe: Magic141Pipeline, saved_pipeline: Path, tmp_path: Path) -> None:
    loaded = Magic141Pipeline.from_pretrained(saved_pipeline)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(run(loaded), run(pipe))
    loaded.save_pretrained(tmp_path / "again")
    for path in (tmp_path / "again").rglob("*.json"):
        assert str(saved_pipeline) not in path.read_text("utf-8"), (
            f"{path.name} names a folder of this machine"
        )
    index = json.loads((tmp_path / "again" / weights.INDEX).read_text("utf-8"))
    assert index["_class_name"] == "Magic141Pipeline"
    for folder in ("transformer", "vae", "text_encoder"):
        first, second = (p / folder for p in (saved_pipeline, tmp_path / "again"))
        (name,) = (path.name for path in first.glob("*.safetensors"))
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_preset_names_load_verified_weights(
    saved_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(weights.DIRECTORY_VARIABLE, raising=False)
    monkeypatch.setattr(weights, "SHIPPED", tmp_path)
    Magic141Pipeline.from_pretrained(saved_pipeline).save_pretrained(tmp_path / "lab")
    weights.seal(tmp_path / "lab")
    assert isinstance(Magic141Pipeline.from_pretrained("lab"), Magic141Pipeline)
    path = tmp_path / "lab" / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsCorrupt, match=r"vae.diffusion_pytorch_model\.safetensors"):
        Magic141Pipeline.from_pretrained("lab")


def test_lower_precision(saved_pipeline: Path) -> None:
    pipe = Magic141Pipeline.from_pretrained(saved_pipeline, dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    assert {pipe.transformer.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.bfloat16}
    low, full = (run(p, output_type="pt") for p in (pipe, pipe.to(torch.float32)))
    assert low.dtype == torch.float32
    assert (low - full).abs().mean() < 0.05


@given(known=st.integers(0, 4), frames=st.integers(4, 6), batch=st.integers(1, 2))
def test_known_channels(known: int, frames: int, batch: int) -> None:
    latents = torch.zeros(batch, 16, frames, 2, 2)
    clean = torch.randn(batch, 16, known, 2, 2) if known else None
    channels = known_channels(latents, clean)
    assert channels.shape == (batch, 17, frames, 2, 2)
    assert torch.equal(channels[:, 16, :known], torch.ones(batch, known, 2, 2))
    assert channels[:, :, known:].abs().sum() == 0
    if clean is not None:
        assert torch.equal(channels[:, :16, :known], clean)


@pytest.mark.gpu
def test_cuda_agrees_with_cpu(pipe: Magic141Pipeline) -> None:
    on_cpu = run(pipe, output_type="pt")
    on_cuda = run(pipe.to("cuda"), output_type="pt").cpu()
    assert (on_cpu - on_cuda).abs().max() < 1e-2


@pytest.mark.gpu
def test_cpu_offload(pipe: Magic141Pipeline) -> None:
    expected = run(pipe, output_type="pt")
    pipe.enable_model_cpu_offload()
    assert (run(pipe, output_type="pt").cpu() - expected).abs().max() < 1e-2


def test_the_output_holds_the_picture_that_the_video_started_from(pipe: Magic141Pipeline) -> None:
    given = torch.rand(1, 3, 64, 64)
    settings = {"num_inference_steps": 1, "num_frames": 5, "generator": torch.Generator().manual_seed(0)}
    output = pipe("a red ring", image=given, **settings)
    torch.testing.assert_close(output.images, given * 2 - 1, atol=1e-5, rtol=0)
    drawn = pipe("a red ring", **settings, output_type="pt")
    # Handed over as a latent, not encoded again: the video begins with this picture itself.
    torch.testing.assert_close(drawn.frames[:, 0], drawn.images / 2 + 0.5, atol=1e-5, rtol=0)
    assert pipe("a red ring", **(settings | {"num_frames": 1})).images is None


def dtypes(pipe: Magic141Pipeline) -> dict[str, torch.dtype]:
    return {name: part.dtype for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


@pytest.mark.parametrize("preset", ["lab", "lab-student"])
def test_what_is_stored_in_half_precision_computes_in_float32(preset: str) -> None:
    assert set(dtypes(Magic141Pipeline.from_pretrained(preset)).values()) == {torch.float32}
    asked = {"transformer": torch.bfloat16, "default": torch.float32}
    for name in ("dtype", "torch_dtype"):
        found = dtypes(Magic141Pipeline.from_pretrained(preset, **{name: asked}))
        assert found.pop("transformer") == torch.bfloat16
        assert set(found.values()) == {torch.float32}


def test_a_student_that_was_changed_and_saved_over_itself_is_the_changed_one(tmp_path: Path) -> None:
    folder = tmp_path / "student"
    shutil.copytree(weights.SHIPPED / "lab-student", folder)
    pipe = Magic141Pipeline.from_pretrained(folder)
    with torch.no_grad():
        pipe.transformer.proj_out.bias += 1
    pipe.save_pretrained(folder)
    again = Magic141Pipeline.from_pretrained(folder)
    assert torch.equal(again.transformer.proj_out.bias, pipe.transformer.proj_out.bias)


def test_saving_leaves_other_files_alone(pipe: Magic141Pipeline, tmp_path: Path) -> None:
    theirs = {"list.json": "[1, 2]", "notes.json": '{"_name_or_path": "keep"}', "odd.json": "// no JSON"}
    for name, text in theirs.items():
        (tmp_path / name).write_text(text)
    pipe.save_pretrained(tmp_path)
    assert {name: (tmp_path / name).read_text() for name in theirs} == theirs


@pytest.mark.parametrize("name", ["vae/diffusion_pytorch_model.safetensors", "model_index.json"])
def test_a_folder_that_was_cut_off_is_corrupt(saved_pipeline: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(saved_pipeline, folder)
    (folder / weights.SUMS).unlink(missing_ok=True)
    path = folder / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(WeightsCorrupt, match="cannot be loaded"):
        Magic141Pipeline.from_pretrained(folder)


def test_parts_that_are_kept_elsewhere_are_fetched(pipe: Magic141Pipeline) -> None:
    """As `enable_sequential_cpu_offload` does on a GPU: until they are needed, weights are on no device at all."""
    expected = run(pipe, output_type="pt"), run(pipe, image=picture(), output_type="pt")
    for part in (pipe.text_encoder, pipe.transformer, pipe.vae):
        cpu_offload(part, torch.device("cpu"))
    assert pipe.vae.device.type == "meta"
    assert torch.equal(run(pipe, output_type="pt"), expected[0])
    assert torch.equal(run(pipe, image=picture(), output_type="pt"), expected[1])
    frames = list(pipe.stream(PROMPT, seconds=1, window=9, num_inference_steps=1))
    assert sum(map(len, frames)) == 16


def test_every_part_is_brought_to_its_device(pipe: Magic141Pipeline) -> None:
    """As `enable_model_cpu_offload` does: a hook moves a part when it is called, whichever of its methods is."""

    class Hook:
        def __init__(self, name: str) -> None:
            self.name = name

        def pre_forward(self, *_: Any, **__: Any) -> None:
            brought.append(self.name)

    brought: list[str] = []
    for name in ("text_encoder", "vae"):
        pipe.components[name]._hf_hook = Hook(name)
    run(pipe, output_type="pt")
    # Prompt, picture, its tokens, clip. Twice is as good as once.
    assert [name for name, _ in groupby(brought)] == ["text_encoder", "vae", "text_encoder", "vae"]
    brought.clear()
    run(pipe, image=picture(), output_type="latent")
    assert [name for name, _ in groupby(brought)] == ["text_encoder", "vae"]


def test_what_a_callback_gives_stays_its_own(pipe: Magic141Pipeline) -> None:
    kept = torch.ones(1, 16, 2, 8, 8)

    def give(*_: Any) -> dict[str, Tensor]:
        return {"latents": kept}

    run(pipe, image=picture(), callback_on_step_end=give)
    assert torch.equal(kept, torch.ones_like(kept))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"generator": (torch.Generator(),)}, "must be a torch.Generator"),
        ({"generator": 42}, "must be a torch.Generator"),
        ({"generator": [42]}, "must be a torch.Generator"),
        ({"guidance_scale": "3"}, "guidance_scale='3' must be a number"),
        ({"shift": "3"}, "shift='3' must be a number"),
        ({"latents": np.zeros((1, 16, 2, 8, 8))}, "must be a tensor"),
        ({"latents": torch.full((1, 16, 2, 8, 8), torch.nan)}, "not finite"),
        ({"image": np.full((64, 64, 3), "x")}, "image has type"),
    ],
)
def test_wrong_types_are_refused_before_anything_is_computed(
    pipe: Magic141Pipeline, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(pipe, "encode_texts", None)
    with pytest.raises(InputError, match=said):
        run(pipe, **wrong)


def test_whole_numbers_of_numpy_are_whole_numbers(pipe: Magic141Pipeline) -> None:
    assert run(pipe, num_frames=np.int64(5), num_inference_steps=np.int64(1)).shape[2] == 2


def test_what_is_missing_is_not_called_corrupt(saved_pipeline: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(saved_pipeline, folder)
    (folder / weights.SUMS).unlink(missing_ok=True)
    (folder / "transformer" / "config.json").unlink()
    with pytest.raises(WeightsMissing, match="config"):
        Magic141Pipeline.from_pretrained(folder)


@pytest.mark.parametrize("asked", [{"dtype": None}, {"dtype": None, "torch_dtype": torch.bfloat16}])
def test_a_dtype_of_none_is_none_given(asked: dict[str, Any]) -> None:
    expected = asked.get("torch_dtype", torch.float32)
    assert set(dtypes(Magic141Pipeline.from_pretrained("lab-student", **asked)).values()) == {expected}


def test_a_dtype_that_is_none_is_refused(saved_pipeline: Path) -> None:
    with pytest.raises(InputError, match="must be a torch.dtype"):
        Magic141Pipeline.from_pretrained(saved_pipeline, dtype="auto")


def test_a_part_may_compute_elsewhere(pipe: Magic141Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `pipe.to("cuda"); pipe.vae.to("cpu")`: inputs go to the part, and what it makes comes back."""
    monkeypatch.setattr(Magic141Pipeline, "_execution_device", property(lambda self: torch.device("meta")))
    assert pipe.ready(pipe.vae) == torch.device("cpu")
    latent = pipe.image_latent_of(torch.zeros(1, 3, 64, 64))
    assert latent.device.type == "meta"
    assert pipe._decode(torch.zeros(1, 16, 1, 8, 8)).device.type == "cpu"
