import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from magic141 import stages
from magic141.arguments import parse_schedule
from magic141.conditioning import IMAGE_TOKENS, encode_image, encode_prompt
from magic141.errors import InputError
from magic141.images import as_pixels
from magic141.longvideo import moments
from magic141.longvideo_plan import FPS, Plan
from magic141.pipeline import Magic141Pipeline

PROMPT = "a small red ring drifting left over dark stripes"
OTHER = "a large blue star drifting right over pale speckle"
STEPS = 2
THREE = {"seconds": 29 / 16, "window": 13}
"""Windows of 4 latent frames that begin at 0, 13 and 25 with an overlap of 1, and so cut the last one short."""
Seeded = Callable[[int], torch.Generator]


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def stream(pipe: Magic141Pipeline, prompt: Any = PROMPT, **kwargs: Any) -> Iterator[np.ndarray]:
    defaults: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": 1, **THREE}
    return pipe.stream(prompt, **(defaults | {"generator": torch.Generator().manual_seed(0)} | kwargs))


@pytest.fixture(scope="module")
def pipe(saved_pipeline: Path) -> Magic141Pipeline:
    """Loaded once: tests must leave it as it was."""
    pipe = Magic141Pipeline.from_pretrained(saved_pipeline)
    pipe.set_progress_bar_config(disable=True)
    return pipe


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


@pytest.fixture
def denoised(pipe: Magic141Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What `pipe.denoise` gives, run by run: the picture, if it is drawn, then the windows."""
    seen: list[Tensor] = []
    denoise = pipe.denoise

    def record(*args: Any, **kwargs: Any) -> Tensor:
        seen.append(denoise(*args, **kwargs))
        return seen[-1].clone()

    monkeypatch.setattr(pipe, "denoise", record)
    return seen


@pytest.fixture
def decoded(pipe: Magic141Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """The latents that the decoder reads part by part, and the frames that it makes of them."""
    seen: list[tuple[Tensor, Tensor]] = []
    decode_next = pipe.vae.decode_next

    def record(latents: Tensor, state: Any = None) -> Any:
        video, state = decode_next(latents, state)
        seen.append((latents, video))
        return video, state

    monkeypatch.setattr(pipe.vae, "decode_next", record)
    return seen


@given(
    frames=st.integers(1, 2000),
    groups=st.integers(1, 12),
    data=st.data(),
)
@settings(max_examples=200)
def test_windows_cover_every_frame_once(frames: int, groups: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(1, groups))
    plan = Plan(frames / FPS, 4 * groups + 1, overlap)
    assert plan.frames == frames
    assert plan.latents == groups + 1
    new = [plan.window] + [4 * (plan.latents - overlap)] * (len(plan.starts) - 1)
    covered = [frame for start, n in zip(plan.starts, new, strict=True) for frame in range(start, start + n)]
    assert covered == list(range(len(covered)))
    assert len(covered) - new[-1] < frames or len(plan.starts) == 1
    assert frames <= len(covered), "and no window begins after the end"


def test_a_minute_is_960_frames() -> None:
    """30 windows make 961 frames, of which the last is cut off."""
    plan = Plan(60, 33, 1)
    assert (plan.frames, len(plan.starts), plan.starts[-1]) == (960, 30, 929)


@pytest.mark.parametrize(
    ("kwargs", "parts"),
    [
        ({}, [13, 12, 4]),
        ({"overlap": 3}, [13, 4, 4, 4, 4]),
        ({"overlap": 3, "cross_fade": 2}, [5, 4, 4, 4, 12]),
        ({"overlap": 2, "cross_fade": 1, "seconds": 17 / 16}, [9, 8]),
        ({"chaining": "frame"}, [13, 12, 4]),
        ({"seconds": 0.5}, [8]),
        ({"seconds": 0.1}, [2]),
        (
            {"image": picture(), "guidance_scale": 3, "history_noise": 0.2, "match_statistics": True},
            [13, 12, 4],
        ),
        ({"height": 32, "width": 48, "anchor": False, "negative_prompt": OTHER}, [13, 12, 4]),
    ],
)
def test_frames(pipe: Magic141Pipeline, kwargs: dict[str, Any], parts: list[int]) -> None:
    frames = list(stream(pipe, **kwargs))
    assert [len(part) for part in frames] == parts
    size = (kwargs.get("height", 64), kwargs.get("width", 64), 3)
    assert all(part.shape[1:] == size and part.dtype == np.uint8 for part in frames)


@pytest.mark.parametrize("image", [None, picture()])
def test_the_first_window_is_what_the_pipeline_makes(
    pipe: Magic141Pipeline, seeded: Seeded, image: np.ndarray | None
) -> None:
    options = {"image": image, "guidance_scale": 2, "image_guidance_scale": 3, "shift": 2.0}
    first = next(stream(pipe, **options))
    clip = pipe(PROMPT, num_frames=13, num_inference_steps=STEPS, generator=seeded(0), **options).frames[0]
    assert np.array_equal(first, (clip * 255).round().astype(np.uint8))


@pytest.mark.parametrize("kwargs", [{}, {"overlap": 2}, {"overlap": 3, "cross_fade": 2}])
def test_a_streamed_decode_equals_a_whole_one(
    pipe: Magic141Pipeline, decoded: list[tuple[Tensor, Tensor]], kwargs: dict[str, Any]
) -> None:
    frames = np.concatenate(list(stream(pipe, **kwargs)))
    latents = torch.cat([part for part, _ in decoded], dim=2)
    with torch.no_grad():
        whole = pipe.vae.decode(latents)
    torch.testing.assert_close(torch.cat([video for _, video in decoded], dim=2), whole, rtol=0, atol=1e-4)
    levels = ((whole[0] / 2 + 0.5).clamp(0, 1) * 255).permute(1, 2, 3, 0).numpy()
    assert np.abs(levels[: len(frames)] - frames).max() < 0.51


@pytest.mark.parametrize("overlap", [1, 2, 3])
def test_windows_know_the_last_latents_of_their_predecessor(
    pipe: Magic141Pipeline, calls: list[dict[str, Tensor]], denoised: list[Tensor], overlap: int
) -> None:
    """They enter unchanged beside a mask, noised as in training, with the flag that they lie inside a video."""
    list(stream(pipe, image=picture(), overlap=overlap, guidance_scale=3))
    assert len(calls) == STEPS * len(denoised)
    assert "continuation" not in calls[0]
    assert calls[0]["hidden_states"][:, 32].sum(dim=(2, 3)).tolist() == [[64, 0, 0, 0]] * 2
    for (before, after), i in zip(pairwise(denoised), range(STEPS, len(calls), STEPS), strict=True):
        tail = before[:, :, -overlap:]
        assert torch.equal(after[:, :, :overlap], tail)
        noise = calls[i]["hidden_states"][:1, :16, :overlap]
        for call in calls[i : i + STEPS]:
            x, t = call["hidden_states"], call["timestep"][0] / 1000
            assert x.shape == (2, 33, 4, 8, 8)
            assert torch.equal(x[:, 16:32, :overlap], tail.expand(2, -1, -1, -1, -1))
            assert x[:, 16:32, overlap:].abs().max() == 0
            assert x[:, 32].amin((2, 3)).tolist() == [[1.0] * overlap + [0.0] * (4 - overlap)] * 2
            assert call["continuation"].tolist() == [True, True]
            torch.testing.assert_close(x[:1, :16, :overlap], (1 - t) * tail + t * noise, rtol=0, atol=1e-4)


def test_the_first_picture_anchors_every_window(
    pipe: Magic141Pipeline, calls: list[dict[str, Tensor]]
) -> None:
    image = picture()
    tokens = encode_image(pipe.text_encoder, as_pixels(image, 1, 64, 64))
    list(stream(pipe, image=image))
    assert all(torch.equal(call["encoder_hidden_states"][:, :IMAGE_TOKENS], tokens) for call in calls)


def test_without_anchor_a_window_sees_the_newest_frame(
    pipe: Magic141Pipeline, calls: list[dict[str, Tensor]]
) -> None:
    parts = list(stream(pipe, image=picture(), anchor=False))
    for call, part in zip(calls[STEPS::STEPS], parts[:-1], strict=True):
        newest = encode_image(pipe.text_encoder, as_pixels(part[-1], 1, 64, 64))
        torch.testing.assert_close(call["encoder_hidden_states"][:, :IMAGE_TOKENS], newest, rtol=0, atol=0.05)


def test_prompts_change_with_the_first_window_that_begins_in_their_time(
    pipe: Magic141Pipeline, calls: list[dict[str, Tensor]]
) -> None:
    """Windows begin at frames 0, 13 and 25."""
    list(stream(pipe, [(0, PROMPT), (14 / 16, OTHER)], image=picture()))
    texts = [encode_prompt(pipe.text_encoder, pipe.tokenizer, text) for text in (PROMPT, PROMPT, OTHER)]
    for call, (tokens, pooled) in zip(calls[::STEPS], texts, strict=True):
        assert torch.equal(call["encoder_hidden_states"][:, IMAGE_TOKENS:], tokens)
        assert torch.equal(call["pooled_projections"], pooled)


def test_history_noise_is_on_what_is_shown(
    pipe: Magic141Pipeline, calls: list[dict[str, Tensor]], denoised: list[Tensor]
) -> None:
    list(stream(pipe, image=picture(), history_noise=0.25, overlap=3))
    tail = denoised[0][:, :, -3:]
    shown = [call["hidden_states"][:, 16:32, :3] for call in calls[STEPS : 2 * STEPS]]
    assert torch.equal(shown[0], shown[1]), "the same at all steps"
    assert (shown[0] - tail).std().item() == pytest.approx(0.25, rel=0.1)
    assert torch.equal(denoised[1][:, :, :3], tail), "and not on what is kept"


def test_statistics_of_the_first_window(pipe: Magic141Pipeline, decoded: list[tuple[Tensor, Tensor]]) -> None:
    list(stream(pipe, match_statistics=True))
    target = moments(decoded[0][0][:, :, 1:])
    for latents, _ in decoded[1:]:
        torch.testing.assert_close(moments(latents), target, rtol=0, atol=1e-4)


def test_cross_fade_blends_what_is_made_twice(
    pipe: Magic141Pipeline,
    calls: list[dict[str, Tensor]],
    denoised: list[Tensor],
    decoded: list[tuple[Tensor, Tensor]],
) -> None:
    """Two windows of 4 latent frames, of which they share 3: one is known, two are made by both."""
    list(stream(pipe, image=picture(), overlap=3, cross_fade=2, seconds=17 / 16))
    first, second = denoised
    assert calls[-1]["hidden_states"][0, 32].amax((1, 2)).tolist() == [1, 0, 0, 0]
    assert torch.equal(decoded[0][0], first[:, :, :2])
    blended = [torch.lerp(first[:, :, 1 + j], second[:, :, j], j / 3) for j in (1, 2)]
    expected = torch.stack([*blended, second[:, :, 3]], dim=2)
    torch.testing.assert_close(decoded[1][0], expected, rtol=0, atol=1e-6)


def test_frame_chaining_starts_a_clip_from_the_last_frame(
    pipe: Magic141Pipeline, calls: list[dict[str, Tensor]], denoised: list[Tensor], seeded: Seeded
) -> None:
    generator = seeded(0)
    first = pipe(
        PROMPT, picture(), num_frames=13, num_inference_steps=STEPS, guidance_scale=1, generator=generator
    )
    second = pipe(
        PROMPT,
        first.frames[0, -1],
        num_frames=13,
        num_inference_steps=STEPS,
        guidance_scale=1,
        generator=generator,
    )
    expected = (np.concatenate([first.frames[0], second.frames[0, 1:]]) * 255).round()
    calls.clear()
    parts = list(stream(pipe, image=picture(), chaining="frame", seconds=25 / 16))
    assert [len(part) for part in parts] == [13, 12]
    assert np.abs(np.concatenate(parts) - expected).max() <= 1
    assert all("continuation" not in call for call in calls)
    assert calls[-1]["hidden_states"][0, 32].amax((1, 2)).tolist() == [1, 0, 0, 0]
    torch.testing.assert_close(denoised[3], denoised[1], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "option",
    [
        {"anchor": False},
        {"history_noise": 0.3},
        {"match_statistics": True},
        {"cross_fade": 1},
        {"guidance_scale": 3},
        {"shift": 4.0},
        {"negative_prompt": OTHER, "guidance_scale": 2},
    ],
)
def test_options_change_what_follows(pipe: Magic141Pipeline, option: dict[str, Any]) -> None:
    plain = {"overlap": 2, "seconds": 21 / 16, "image": picture()}
    with_option, without = (
        np.concatenate(list(stream(pipe, **plain, **some))) for some in (option, {"guidance_scale": 1})
    )
    assert not np.array_equal(with_option[13:], without[13:])


def test_same_generator_same_bytes(pipe: Magic141Pipeline, seeded: Seeded) -> None:
    def run(seed: int) -> np.ndarray:
        return np.concatenate(list(stream(pipe, generator=seeded(seed), history_noise=0.1)))

    assert np.array_equal(run(1), run(1))
    assert not np.array_equal(run(1), run(2))


def test_the_pipeline_may_be_used_between_windows(pipe: Magic141Pipeline, seeded: Seeded) -> None:
    alone = list(stream(pipe))
    parts = []
    for part in stream(pipe):
        assert torch.is_grad_enabled()
        parts.append(part)
        pipe(PROMPT, num_frames=5, num_inference_steps=3, shift=5.0, generator=seeded(9))
    assert np.array_equal(np.concatenate(parts), np.concatenate(alone))


def live_bytes() -> int:
    """Of all tensors' storages, those apart that an earlier test left in a cycle."""
    gc.collect()
    storages = {
        storage.data_ptr(): storage.nbytes()
        for storage in (item.untyped_storage() for item in gc.get_objects() if issubclass(type(item), Tensor))
    }
    return sum(storages.values())


@pytest.mark.parametrize(
    "kwargs",
    [{"overlap": 2}, {"overlap": 3, "cross_fade": 2, "anchor": False}, {"chaining": "frame", "window": 5}],
)
def test_memory_is_flat(pipe: Magic141Pipeline, kwargs: dict[str, Any]) -> None:
    """What lives between windows: a few tensors, as many after the fifth window as after the second."""
    before = live_bytes()
    held = [live_bytes() - before for _ in stream(pipe, **kwargs)]
    assert len(held) >= 3
    assert len(set(held[1:-1])) == 1, held
    clip = 16 * 4 * 8 * 8 * 4
    assert held[2] < 16 * clip, "the frame of 64 x 64 is the largest of them"


@pytest.mark.parametrize(
    ("kwargs", "encoded"),
    [
        ({}, []),
        ({"prompt": [(0, PROMPT), (1, OTHER)]}, ["text encode"]),
        ({"anchor": False}, ["image encode"]),
        ({"chaining": "frame"}, ["image encode"]),
    ],
)
def test_stages(
    pipe: Magic141Pipeline, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any], encoded: list[str]
) -> None:
    """Of three windows, each lies inside an entry of its own; the last only encodes what is new in it."""
    windows: list[list[str]] = []
    clock = stages.StageClock()
    inside = False

    @contextmanager
    def hook(stage: str) -> Iterator[None]:
        nonlocal inside
        assert inside is (stage != "window")
        if stage == "window":
            windows.append([])
            inside = True
        else:
            windows[-1].append(stage)
        with clock(stage):
            yield
        inside = inside and stage != "window"

    monkeypatch.setattr(pipe, "stage_hook", hook)
    list(stream(pipe, **kwargs))
    steps = [*["denoise"] * STEPS, "vae decode"]
    assert windows[0] == ["text encode", "image", "image encode", *steps]
    assert windows[2] == [*encoded, *steps]
    assert len(clock.seconds["window"]) == 3
    assert clock.seconds["window"][0] > sum(clock.seconds["image"]), "the time to the first frame"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"prompt": ""}, "has no words"),
        ({"prompt": 3}, "must be text"),
        ({"prompt": [PROMPT, OTHER]}, "must be text, or a schedule of pairs"),
        ({"prompt": []}, "schedule is empty"),
        ({"prompt": [(0.5, PROMPT)]}, "starts at second 0.5: its first prompt must start at 0"),
        ({"prompt": [(0, PROMPT), (1, OTHER), (0.5, PROMPT)]}, "0.5 s follows 1 s: put it in order"),
        ({"prompt": [(0, PROMPT), (float("nan"), OTHER)]}, "nan s follows 0 s"),
        ({"prompt": [(0, PROMPT), (2, OTHER)]}, "a prompt at 2 s, and the video ends at 1.8125 s"),
        (
            {"prompt": [(0, PROMPT), (0.1, OTHER), (0.2, PROMPT)]},
            "no window begins while the prompt of 0.1 s",
        ),
        ({"prompt": [(0, PROMPT), (1.75, OTHER)]}, "no window begins while the prompt of 1.75 s"),
        ({"prompt": [(0, PROMPT), (0.5, "a zebra")]}, "'zebra'"),
        ({"negative_prompt": "a zebra"}, "'zebra'"),
        ({"seconds": 0}, "seconds=0 must lie above 0"),
        ({"seconds": -5}, "seconds=-5 must"),
        ({"seconds": float("nan")}, "seconds=nan must"),
        ({"seconds": float("inf")}, "seconds=inf must"),
        ({"seconds": 0.01}, "seconds=0.01 hold no frame at 16 a second"),
        ({"window": 32}, "window=32 must be 4k.1 frames from 5 up: try 29 or 33"),
        ({"window": 1}, "window=1 must .* try 5 or 9"),
        ({"window": 33.0}, "window=33.0 must be a whole number"),
        ({"overlap": 0}, "overlap=0 must lie in 1..3: a window of 13 frames has 4 latent frames"),
        ({"overlap": 4}, "overlap=4 must lie in 1..3"),
        ({"overlap": 1.5}, "overlap=1.5 must be a whole number"),
        ({"chaining": "pixel"}, "chaining='pixel' is unknown"),
        ({"chaining": "frame", "overlap": 2}, "overlap=2 must be 1 with chaining='frame'"),
        ({"cross_fade": 1}, "cross_fade=1 must lie in 0..0"),
        ({"cross_fade": -1}, "cross_fade=-1"),
        ({"cross_fade": 0.5}, "cross_fade=0.5 must be a whole number"),
        ({"history_noise": 1.5}, "history_noise=1.5 must lie in 0..1"),
        ({"history_noise": float("nan")}, "history_noise=nan"),
        ({"num_inference_steps": 0}, "num_inference_steps=0"),
        ({"guidance_scale": -1}, "guidance_scale=-1"),
        ({"image_guidance_scale": -1}, "image_guidance_scale=-1"),
        ({"shift": 0}, "shift=0"),
        ({"height": 60}, "height=60"),
        ({"image": picture()[:32]}, r"must have \(64, 64, 3\)"),
        ({"generator": [torch.Generator()] * 2}, "2 generators for 1 prompts"),
        ({"negative_prompt": ["blue", "red"]}, "2 negative prompts for one video: give one"),
        ({"anchor": "no"}, "anchor='no' must be True or False"),
        ({"match_statistics": 2}, "match_statistics=2 must be True or False"),
    ],
)
def test_bad_input_is_refused_at_the_call(
    pipe: Magic141Pipeline, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any], message: str
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr(pipe.transformer, "forward", work)
    for tower in (pipe.text_encoder.text_model, pipe.text_encoder.vision_model):
        monkeypatch.setattr(tower, "forward", work)
    with pytest.raises(InputError, match=message):
        stream(pipe, **kwargs)


def test_a_schedule_takes_one_generator_and_one_negative_prompt(pipe: Magic141Pipeline) -> None:
    prompts = [(0.0, "a small red ring"), (1.0, "a large blue star")]
    options: dict[str, Any] = {"prompt": prompts, "seconds": torch.tensor(2.0), "negative_prompt": ["red"]}
    made = [
        np.concatenate(list(stream(pipe, **options, generator=generator)))
        for generator in (torch.Generator().manual_seed(3), [torch.Generator().manual_seed(3)])
    ]
    assert len(made[0]) == 32
    assert (made[0] == made[1]).all()


def test_a_model_without_the_flag_cannot_continue(pipe: Magic141Pipeline) -> None:
    pipe.transformer.register_to_config(continuation_embed=False)
    try:
        with pytest.raises(InputError, match="not trained to continue a video: use chaining='frame'"):
            stream(pipe)
    finally:
        pipe.transformer.register_to_config(continuation_embed=True)


def test_schedules_are_read_from_text() -> None:
    expected = [(0, "a red ring"), (20, "a blue star, pulsing"), (40.5, "a small disc")]
    assert parse_schedule("0:a red ring 20: a blue star, pulsing  40.5 : a small disc") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a second, a colon and a prompt each"),
        ("a red ring", "a second, a colon and a prompt each"),
        ("-1:a red ring", "a second, a colon and a prompt each"),
        ("0:a red ring 20:", "have nothing at 20 s"),
        ("0: 20:a red ring", "have nothing at 0 s"),
    ],
)
def test_bad_schedules_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_schedule(text)
