"""Text to image to video: the factorisation of Magic 1-For-1 (arXiv 2502.07701) as a diffusers pipeline.

One transformer serves both halves. Text-to-image is a one-frame video of which nothing is known. Image-to-video
knows latent frame 0, which enters twice: as latent channels beside the noisy latent, and as image tokens beside
the text tokens (the paper's multi-modal prior). Where the first half drew it, it is handed over as it is: only a given
picture is encoded.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPModel, PreTrainedTokenizerFast

from magic141 import adapter, arguments, longvideo, stages, weights
from magic141.autoencoder import AutoencoderMagic141
from magic141.conditioning import Condition, as_batch, encode_image, encode_prompt, known_channels, visible
from magic141.errors import InputError, Magic141Error, WeightsCorrupt
from magic141.images import ImageInput, as_pixels
from magic141.scheduler import Generators
from magic141.solvers import Times, check_solver, own_guidance, stepper
from magic141.transformer import Magic141Transformer3DModel

SPATIAL_COMPRESSION = 8
SHAREABLE = {"vae": AutoencoderMagic141, "text_encoder": CLIPModel}
"""Parts that a student need not ship: they may be its teacher's. Its transformer may be a change of its teacher's."""
OUTPUT_TYPES = ("np", "pt", "pil", "latent")

StepCallback = Callable[["Magic141Pipeline", int, Tensor, dict[str, Any]], dict[str, Any]]


@dataclass
class Magic141PipelineOutput(BaseOutput):
    """`frames` of B clips, by `output_type`: "np" (B, T, H, W, 3) and "pt" (B, T, 3, H, W), floats in [0, 1];
    "pil", B lists of T images; "latent" (B, 16, t, h, w). `images`: the pictures (B, 3, H, W) in [-1, 1] that image to
    video started from, given or generated; None where one frame was asked for.
    """

    frames: np.ndarray | Tensor | list[list[Image.Image]]
    images: Tensor | None = None


class Magic141Pipeline(DiffusionPipeline):
    """Video from text, or from text and its first frame.

    `scheduler` is ours, or one of diffusers that knows flow matching (`magic141.solvers`). `stage_hook` is entered
    around each stage of a call (`magic141.stages` names them), for clocks and meters.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self,
        transformer: Magic141Transformer3DModel,
        vae: AutoencoderMagic141,
        text_encoder: CLIPModel,
        tokenizer: PreTrainedTokenizerFast,
        scheduler: SchedulerMixin,
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
        )
        self.stage_hook: stages.StageHook = stages.unmeasured
        self.video_processor = VideoProcessor(vae_scale_factor=SPATIAL_COMPRESSION)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] = "lab", **kwargs: Any
    ) -> Self:
        """A pipeline from a preset name, a folder or a hub repository, found by `magic141.weights.resolve`.

        Keyword arguments are those of `DiffusionPipeline.from_pretrained`. Weights are stored in half precision, and
        compute in float32 unless `dtype` says otherwise, for all parts or for some: `{"transformer": torch.bfloat16}`.

        Raises InputError, WeightsMissing, WeightsCorrupt.
        """
        hub = {name: kwargs.pop(name) for name in weights.HUB_ARGUMENTS if name in kwargs}
        folder = weights.resolve(pretrained_model_name_or_path, hub)
        asked = (kwargs.pop("dtype", None), kwargs.pop("torch_dtype", None))
        dtype = kwargs["dtype"] = next((one for one in asked if one is not None), torch.float32)
        if not isinstance(dtype, torch.dtype | dict):
            raise InputError(f"dtype={dtype!r} must be a torch.dtype, or a dict with one by part")
        try:
            for part, where in weights.shared(folder).items():
                if part not in kwargs:
                    kwargs[part] = _borrowed(part, where, folder, _dtype_of(part, dtype))
            return super().from_pretrained(str(folder), **kwargs)
        except Magic141Error:
            raise
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            if kwargs.keys() - {"dtype"}:  # it may be what was asked for that is not there
                raise
            raise WeightsCorrupt(f"{folder} cannot be loaded: {error}. Fetch or save it again") from error

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """As diffusers does, but without the path on this machine that a model was loaded from.

        A folder that held a student's difference from its teacher holds the whole pipeline afterwards, unsealed.
        """
        folder = Path(save_directory)
        for name in (weights.SHARED, adapter.FILE, weights.SUMS):  # they would win over what is saved
            (folder / name).unlink(missing_ok=True)
        super().save_pretrained(save_directory, **kwargs)
        for path in folder.rglob("*.safetensors"):  # safetensors makes files that their owner alone may read
            shutil.copymode(folder / weights.INDEX, path)
        parts = (path for part in self.components for path in folder.glob(f"{part}/*config.json"))
        for path in (folder / weights.INDEX, *parts):
            config = json.loads(path.read_text("utf-8"))
            if config.pop("_name_or_path", None) is not None:
                path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8", newline="\n")

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        image: ImageInput | Sequence[ImageInput] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_frames: int = 33,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 28,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        shift: float | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        factorised: bool = True,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
    ) -> Magic141PipelineOutput | tuple[Any]:
        """Generate one clip for each of B prompts.

        Args:
            prompt: what the clips show, in the words that the text encoder was trained on.
            image: the first frame, one for all prompts or one for each (see `magic141.images.as_pixels`). Without
                it the pipeline draws one first, with the same number of steps.
            negative_prompt: what guidance moves away from; the empty prompt unless given.
            num_frames: 4k+1. One frame is text to image alone.
            height, width: pixels, multiples of 16; by default the size that the image encoder was trained on.
            num_inference_steps: steps of each half; Euler's, unless the scheduler was replaced.
            guidance_scale: w of `uncond + w (cond - uncond)` (classifier-free guidance, arXiv 2207.12598), computed
                in one batched pass; 1 turns it off. The image condition stays in both halves of the batch.
                Unless given, what the scheduler says suits these weights: 2, and 1 for students, which hold it.
            image_guidance_scale: the same for text to image; `guidance_scale` unless given.
            shift: s of `t -> s t / (1 + (s - 1) t)`; the scheduler's own unless given.
            generator: all randomness; a list, one for each prompt, makes a clip independent of its batch, unless
                only some of its prompts have more than 22 words: then the shorter ones are padded further.
            latents: the initial noise of the video (B, 16, t, h, w), instead of drawing it.
            factorised: False makes the whole clip from text at once, without a picture first: the baseline.
            output_type: "np", "pt", "pil" or "latent".
            callback_on_step_end: called as diffusers does after each step of the clip, not of its picture; may change
                `latents`.

        Raises:
            InputError: an argument is out of range; nothing has been computed then.
        """
        prompts = as_batch(prompt)
        negatives = [""] if negative_prompt is None else as_batch(negative_prompt)
        native = self.text_encoder.config.vision_config.image_size
        height, width = native if height is None else height, native if width is None else width
        if guidance_scale is None:
            guidance_scale = own_guidance(self.scheduler)
        image_guidance = guidance_scale if image_guidance_scale is None else image_guidance_scale
        self.check_inputs(prompts, negatives, num_frames, height, width, generator, output_type)
        arguments.check_num_inference_steps(num_inference_steps)
        arguments.check_guidance_scale(guidance_scale)
        arguments.check_guidance_scale(image_guidance, "image_guidance_scale")
        arguments.check_shift(shift)
        shape = self.latent_shape(len(prompts), num_frames, height, width)
        if latents is not None:
            arguments.check_latents(latents, shape)
        if image is not None and num_frames == 1:
            raise InputError("num_frames=1 with an image leaves nothing to generate: ask for 5 or more")
        if image is not None and not factorised:
            raise InputError("factorised=False makes a clip from text alone: leave the image out")
        pixels = None if image is None else as_pixels(image, len(prompts), height, width)

        times = Times(num_inference_steps, shift)
        with self.stage_hook(stages.TEXT_ENCODE):
            texts = self.encode_texts(prompts, negatives if {guidance_scale, image_guidance} != {1} else [])

        made: Tensor
        image_latent: Tensor | None = None
        if not factorised:
            noise = self.initial_noise(shape, generator, latents)
            condition = Condition(*texts, guidance_scale)
            made = self.denoise(noise, condition, times, generator, self.stage_hook, callback_on_step_end)
        elif pixels is None:
            with self.stage_hook(stages.IMAGE):
                one = (*shape[:2], 1, *shape[3:])
                noise = self.initial_noise(one, generator, latents if num_frames == 1 else None)
                made = self.denoise(noise, Condition(*texts, image_guidance), times, generator)
                if num_frames > 1:
                    image_latent = made
                    pixels = self._decode(made)[:, :, 0].clamp(-1, 1)

        if pixels is not None:
            with self.stage_hook(stages.IMAGE_ENCODE):
                image_tokens = self.image_tokens_of(pixels)
                if image_latent is None:
                    image_latent = self.image_latent_of(pixels)
            noise = self.initial_noise(shape, generator, latents)
            condition = Condition(*texts, guidance_scale, image_tokens, image_latent)
            made = self.denoise(noise, condition, times, generator, self.stage_hook, callback_on_step_end)

        frames: Any = made
        if output_type != "latent":
            with self.stage_hook(stages.VAE_DECODE):
                video = self._decode(made)
            frames = self.video_processor.postprocess_video(video, output_type=output_type)
        self.maybe_free_model_hooks()
        return Magic141PipelineOutput(frames=frames, images=pixels) if return_dict else (frames,)

    stream = longvideo.stream

    def check_inputs(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str],
        num_frames: int,
        height: int,
        width: int,
        generator: Generators,
        output_type: str,
    ) -> None:
        """Raises InputError for prompts, sizes, generators, output types and schedulers that do not fit."""
        check_solver(self.scheduler)
        if not prompts:
            raise InputError("prompt is an empty list: give at least one")
        for text in prompts:
            arguments.check_prompt(self.tokenizer.backend_tokenizer, text)
        if len(negative_prompts) not in (1, len(prompts)):
            raise InputError(
                f"{len(negative_prompts)} negative prompts for {len(prompts)} prompts: give one or as many"
            )
        for text in negative_prompts:
            arguments.check_prompt(self.tokenizer.backend_tokenizer, text, allow_empty=True)
        arguments.check_num_frames(num_frames)
        arguments.check_size(height, width, SPATIAL_COMPRESSION * self.transformer.config.patch_size)
        arguments.check_generator(generator, len(prompts))
        if output_type not in OUTPUT_TYPES:
            raise InputError(f"output_type={output_type!r} is unknown; use one of {', '.join(OUTPUT_TYPES)}")

    def latent_shape(
        self, batch: int, num_frames: int, height: int, width: int
    ) -> tuple[int, int, int, int, int]:
        """(B, C, t, h, w) of the latents of `batch` clips."""
        side = SPATIAL_COMPRESSION
        frames = (num_frames - 1) // arguments.FRAME_GROUP + 1
        return (batch, self.vae.config.latent_channels, frames, height // side, width // side)

    def denoise(
        self,
        noise: Tensor,
        condition: Condition,
        times: Times,
        generator: Generators = None,
        hook: stages.StageHook = stages.unmeasured,
        on_step: StepCallback | None = None,
        *,
        continuation: bool = False,
        history_noise: float = 0.0,
    ) -> Tensor:
        """Latents (B, 16, t, h, w) from `noise` of that shape, by steps at `times`.

        Known frames, the first k, are noised as in training, so their velocity is known too, `(x_t - x0) / t`; it
        replaces what the model says there, which no loss has ever asked for. `continuation` tells the model that they
        lie inside a video. `history_noise` is the strength of the noise on what it is shown of them.
        """
        clean = condition.image_latent
        count = 0 if clean is None else clean.shape[2]
        shown = clean
        if clean is not None and history_noise:
            shown = clean + history_noise * self.initial_noise(tuple(clean.shape), generator, None)
        image_tokens, shown = visible(
            self.transformer.config.image_condition_type, condition.image_tokens, shown
        )
        known = known_channels(noise, shown)
        tokens, pooled = replace(condition, image_tokens=image_tokens).rows(len(noise))
        copies = len(tokens) // len(noise)
        dtype = self.transformer.dtype
        model_time = self.scheduler.config.num_train_timesteps
        flag = torch.ones(len(tokens), dtype=torch.bool, device=noise.device) if continuation else None
        times.begin(self.scheduler, self._execution_device)
        step = stepper(self.scheduler, generator)
        x = noise
        with self.progress_bar(total=len(self.scheduler.timesteps)) as bar:
            for i, timestep in enumerate(self.scheduler.timesteps):
                # Not `timestep`, which some solvers round to an integer.
                sigma = self.scheduler.sigmas[i].item()
                with hook(stages.DENOISE):
                    v = self.transformer(
                        hidden_states=torch.cat([x, known], dim=1).to(dtype).repeat(copies, 1, 1, 1, 1),
                        timestep=torch.full((len(tokens),), sigma * model_time, device=noise.device),
                        encoder_hidden_states=tokens.to(dtype),
                        pooled_projections=pooled.to(dtype),
                        continuation=flag,
                        return_dict=False,
                    )[0].float()
                    if copies == 2:
                        unguided, guided = v.chunk(2)
                        v = torch.lerp(unguided, guided, condition.guidance_scale)
                    if clean is not None:
                        v[:, :, :count] = (x[:, :, :count] - clean) / sigma
                    x = step(v, timestep, x)
                if on_step is not None:
                    x = on_step(self, i, timestep, {"latents": x}).pop("latents", x)
                bar.update()
        # Not in place: a callback may have given a tensor that it keeps.
        return x if clean is None else torch.cat([clean, x[:, :, count:]], dim=2)

    def encode_texts(self, prompts: list[str], negatives: list[str]) -> tuple[Tensor, Tensor]:
        """Text tokens and pooled vectors of the negative prompts, then of the prompts."""
        texts = [*negatives, *prompts]
        where, here = self.ready(self.text_encoder), self._execution_device
        tokens, pooled = encode_prompt(
            self.text_encoder, self.tokenizer, texts, allow_empty=True, device=where
        )
        return tokens.to(here), pooled.to(here)

    def image_latent_of(self, pixels: Tensor) -> Tensor:
        """The clean latent (B, 16, 1, h, w) of pixels (B, 3, H, W) in [-1, 1]."""
        clip = pixels.unsqueeze(2).to(self.ready(self.vae), self.vae.dtype)
        return self.vae.encode(clip).float().to(self._execution_device)

    def image_tokens_of(self, pixels: Tensor) -> Tensor:
        """Image tokens (B, 16, 128) of pixels (B, 3, H, W) in [-1, 1]."""
        native = self.text_encoder.config.vision_config.image_size
        if pixels.shape[-2:] != (native, native):
            pixels = F.interpolate(pixels, (native, native), mode="bilinear", antialias=True)
        tokens = encode_image(self.text_encoder, pixels, device=self.ready(self.text_encoder))
        return tokens.to(self._execution_device)

    def _decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, T, H, W), about [-1, 1]."""
        return self.vae.decode(latents.to(self.ready(self.vae), self.vae.dtype)).float()

    def initial_noise(self, shape: tuple[int, ...], generator: Generators, given: Tensor | None) -> Tensor:
        device = self._execution_device
        if given is not None:
            return given.to(device, torch.float32)
        return randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)

    def ready(self, model: nn.Module) -> torch.device:
        """The device on which `model` computes, which need not be the others'; brought there first, where diffusers
        keeps it elsewhere until it is called, as it is not here: parts of it are.
        """
        hook: Any = getattr(model, "_hf_hook", None)
        if hook is None:
            return torch.device(str(model.device))
        hook.pre_forward(model)
        where = getattr(hook, "execution_device", None)
        return self._execution_device if where is None else torch.device(where)


def _dtype_of(part: str, asked: Any) -> Any:
    """What diffusers would load a part in: `asked` may be one for all, or by part with a `default`."""
    return asked.get(part, asked.get("default", torch.float32)) if isinstance(asked, dict) else asked


def _borrowed(part: str, where: Path, folder: Path, dtype: Any) -> nn.Module:
    """A part that `folder` takes from another preset, changed where `folder` says how."""
    if part in SHAREABLE:
        return SHAREABLE[part].from_pretrained(where, dtype=dtype)
    whole = adapter.merge(Magic141Transformer3DModel.from_pretrained(where, dtype=torch.float32), folder)
    # torch's own `to`: that of diffusers warns of what it leaves in float32, which is nothing here.
    return nn.Module.to(whole, dtype) if isinstance(dtype, torch.dtype) else whole
