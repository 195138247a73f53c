"""Long video by a sliding window in latent space, as the frames come: the test-time scheme of Magic 1-For-1.

The first window is image to video. Each next one is told the last latent frames of its predecessor, as they are: they
are not decoded and encoded again, and the model is told that they lie inside a video, where a latent frame encodes
four frames and not one. The decoder remembers what it has read, so the parts make the video that one decoding of all
latents would have made. Between windows only `SlidingWindow`'s few tensors are kept: memory is flat in length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from magic141 import arguments, stages
from magic141.arguments import Schedule
from magic141.autoencoder import State
from magic141.conditioning import Condition, as_batch
from magic141.errors import InputError
from magic141.images import ImageInput, as_pixels
from magic141.longvideo_plan import Plan
from magic141.scheduler import Generators
from magic141.solvers import Times, own_guidance
from magic141.video import Frames

if TYPE_CHECKING:
    from magic141.pipeline import Magic141Pipeline

Chaining = Literal["latent", "frame"]
Moments = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all windows share; the fields are arguments of `stream`."""

    plan: Plan
    chaining: Chaining
    anchor: bool
    history_noise: float
    match_statistics: bool
    cross_fade: int
    negative_prompt: str
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    image_guidance_scale: float
    shift: float | None
    generator: Generators


def stream(
    pipe: Magic141Pipeline,
    prompt: str | Schedule,
    image: ImageInput | None = None,
    negative_prompt: str | Sequence[str] | None = None,
    *,
    seconds: float = 60,
    window: int = 33,
    overlap: int = 1,
    chaining: Chaining = "latent",
    anchor: bool | None = None,
    history_noise: float = 0.0,
    match_statistics: bool = False,
    cross_fade: int = 0,
    height: int | None = None,
    width: int | None = None,
    num_inference_steps: int = 28,
    guidance_scale: float | None = None,
    image_guidance_scale: float | None = None,
    shift: float | None = None,
    generator: Generators = None,
) -> Iterator[Frames]:
    """Make one video of `seconds` x 16 frames, window by window: yields its next frames, uint8 (T, H, W, 3).

    `pipe.stage_hook` is entered around each window (`stages.WINDOW`), and inside it around the stages of its making.
    Arguments that are not here are those of `Magic141Pipeline.__call__`.

    Args:
        prompt: what the video shows, or a schedule of it: pairs of a start in seconds and a prompt, the first at 0.
            A window shows the prompt in force at its first new frame.
        image: the first frame. Without it the pipeline draws one first.
        window: frames that the model makes at a time, 4k+1; the lab model was trained on 33.
        overlap: latent frames of a window that are its predecessor's, known to it; the lab model was trained on 1 to 3.
        chaining: "latent", or the control "frame": each window is a clip anew, from the last frame decoded and encoded
            again. `overlap` must be 1 then.
        anchor: whether all windows are given the image tokens of the first frame; otherwise, those of the newest frame
            before the window. By default as the model was trained: true for "latent", false for "frame".
        history_noise: strength of the noise on the known frames of all windows but the first, as they are shown to the
            model; training used up to 0.3.
        match_statistics: give the new latents of each window the mean and the deviation, channel by channel, that the
            first window had (AdaIN, arXiv 1703.06868, equation 8), its single-frame latent left out.
        cross_fade: of the `overlap` latent frames, how many at the end the window is not told but makes again. Frame j
            of these c is then `(1 - w) old + w new` with w = j / (c + 1); it is decoded once, after that.

    Raises:
        InputError: an argument is out of range; at the call, so nothing has been computed then.
    """
    plan = Plan(seconds, window, overlap)
    schedule = [(0.0, prompt)] if isinstance(prompt, str) else prompt
    prompts = plan.prompts(schedule)
    negative, *others = as_batch(negative_prompt or "")
    if others:
        raise InputError(f"{1 + len(others)} negative prompts for one video: give one")
    for name, flag in (("anchor", anchor), ("match_statistics", match_statistics)):
        arguments.check_flag(name, flag)
    native = pipe.text_encoder.config.vision_config.image_size
    if guidance_scale is None:
        guidance_scale = own_guidance(pipe.scheduler)
    settings = Settings(
        plan=plan,
        chaining=chaining,
        anchor=chaining == "latent" if anchor is None else anchor,
        history_noise=history_noise,
        match_statistics=match_statistics,
        cross_fade=cross_fade,
        negative_prompt=negative,
        height=native if height is None else height,
        width=native if width is None else width,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        image_guidance_scale=guidance_scale if image_guidance_scale is None else image_guidance_scale,
        shift=shift,
        generator=generator,
    )
    check_settings(pipe, settings)
    arguments.check_generator(generator, 1)
    pipe.check_inputs(
        [text for _, text in schedule],
        [settings.negative_prompt],
        window,
        settings.height,
        settings.width,
        None,  # one for the video, however many prompts it shows
        "latent",
    )
    if image is not None:
        as_pixels(image, 1, settings.height, settings.width)
    return _stream(pipe, settings, prompts, image)


def check_settings(pipe: Magic141Pipeline, settings: Settings) -> None:
    """Raises InputError for settings out of range, that contradict each other, or that `pipe` was not trained for."""
    arguments.check_num_inference_steps(settings.num_inference_steps)
    arguments.check_guidance_scale(settings.guidance_scale)
    arguments.check_guidance_scale(settings.image_guidance_scale, "image_guidance_scale")
    arguments.check_shift(settings.shift)
    arguments.check_cross_fade(settings.cross_fade, settings.plan.overlap)
    arguments.check_history_noise(settings.history_noise)
    arguments.check_chaining(settings.chaining, settings.plan.overlap)
    if settings.chaining == "latent" and not pipe.transformer.config.continuation_embed:
        raise InputError("this model was not trained to continue a video: use chaining='frame'")


@torch.no_grad()
def _stream(
    pipe: Magic141Pipeline, settings: Settings, prompts: list[str], image: ImageInput | None
) -> Iterator[Frames]:
    windows = SlidingWindow(pipe, settings)
    left = settings.plan.frames
    try:
        for i, prompt in enumerate(prompts):
            last = i == len(prompts) - 1
            with pipe.stage_hook(stages.WINDOW):
                frames = windows.next(prompt, last) if i else windows.first(prompt, image, last)
            frames = frames[:left]
            left -= len(frames)
            yield frames
    finally:
        pipe.maybe_free_model_hooks()


class SlidingWindow:
    """Makes one window after the other; its tensors are all that a window leaves to the next."""

    tail: Tensor  # (1, 16, overlap, h, w), the newest latents
    tokens: Tensor  # (1, 16, 128), image tokens for the next window
    frame: Tensor  # (1, 3, H, W), the newest frame decoded
    texts: tuple[Tensor, Tensor]  # of the negative prompt, if guided, and of `prompt`
    moments: Moments  # of the first window's latents

    def __init__(self, pipe: Magic141Pipeline, settings: Settings) -> None:
        self.pipe, self.settings = pipe, settings
        self.prompt: str | None = None
        self.state: State | None = None

    def first(self, prompt: str, image: ImageInput | None, last: bool) -> Frames:
        """The frames of the first window. `last`: no other follows."""
        settings = self.settings
        clip: Any = self.pipe(
            prompt,
            image,
            settings.negative_prompt,
            num_frames=settings.plan.window,
            height=settings.height,
            width=settings.width,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            image_guidance_scale=settings.image_guidance_scale,
            shift=settings.shift,
            generator=settings.generator,
            output_type="latent",
        )
        self.moments = moments(clip.frames[:, :, 1:])
        self.tokens = self.pipe.image_tokens_of(clip.images)
        self.tail = clip.frames[:, :, :0]
        return self._finish(clip.frames, last)

    def next(self, prompt: str, last: bool) -> Frames:
        """The frames that a window adds, shown `prompt`. `last`: no other follows."""
        pipe, settings, hook = self.pipe, self.settings, self.pipe.stage_hook
        continues = settings.chaining == "latent"
        known = self.tail[:, :, : settings.plan.overlap - settings.cross_fade]
        if not (continues and settings.anchor):
            with hook(stages.IMAGE_ENCODE):
                if not continues:
                    known = pipe.image_latent_of(self.frame)
                if not settings.anchor:
                    self.tokens = pipe.image_tokens_of(self.frame)
        if prompt != self.prompt:
            with hook(stages.TEXT_ENCODE):
                negatives = [settings.negative_prompt] if settings.guidance_scale != 1 else []
                self.texts = pipe.encode_texts([prompt], negatives)
            self.prompt = prompt

        shape = pipe.latent_shape(1, settings.plan.window, settings.height, settings.width)
        latents = pipe.denoise(
            pipe.initial_noise(shape, settings.generator, None),
            Condition(*self.texts, settings.guidance_scale, self.tokens, known),
            Times(settings.num_inference_steps, settings.shift),
            settings.generator,
            hook,
            continuation=continues,
            history_noise=settings.history_noise,
        )
        new = latents[:, :, known.shape[2] :]
        if settings.match_statistics:
            new = with_moments(new, self.moments)
        if fade := settings.cross_fade:
            weight = torch.arange(1, fade + 1, device=new.device).view(-1, 1, 1) / (fade + 1)
            new = torch.cat(
                [torch.lerp(self.tail[:, :, -fade:], new[:, :, :fade], weight), new[:, :, fade:]], dim=2
            )
        return self._finish(new, last, known)

    def _finish(self, new: Tensor, last: bool, start: Tensor | None = None) -> Frames:
        """Decode what no later window will change, and keep what the next window needs.

        `start`, the known frame of a window, is where its decoding starts when frames are chained.
        """
        settings = self.settings
        ready = new if last else new[:, :, : new.shape[2] - settings.cross_fade]
        with self.pipe.stage_hook(stages.VAE_DECODE):
            vae, device = self.pipe.vae, self.pipe.ready(self.pipe.vae)
            if settings.chaining == "latent":
                part = ready.to(device, vae.dtype)
                video, self.state = vae.decode_next(part, self.state)
            elif start is None:
                video = vae.decode(ready.to(device, vae.dtype))
            else:
                video = vae.decode(torch.cat([start, ready], dim=2).to(device, vae.dtype))[:, :, 1:]
        video = video.float()
        self.frame = video[:, :, -1].clamp(-1, 1)
        before = self.tail[:, :, : settings.plan.overlap - settings.cross_fade]
        self.tail = torch.cat([before, new], dim=2)[:, :, -settings.plan.overlap :].clone()
        levels = ((video[0] / 2 + 0.5).clamp(0, 1) * 255).round()
        return levels.to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()


def moments(latents: Tensor) -> Moments:
    """Mean and standard deviation (B, C, 1, 1, 1) of each channel of latents (B, C, t, h, w)."""
    std, mean = torch.std_mean(latents, dim=(2, 3, 4), keepdim=True)
    return mean, std


def with_moments(latents: Tensor, target: Moments) -> Tensor:
    """`latents` with the mean and standard deviation of `target`, channel by channel."""
    mean, std = moments(latents)
    return (latents - mean) / std.clamp(min=1e-6) * target[1] + target[0]
