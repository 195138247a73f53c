"""CLIP scores of a clip through open_clip: does it show the text, does it stay the same picture, is it that image.

With unit vectors f(t) of frames, g of the text and h of an image, over all frames:

- `clip-text`: mean over t of f(t) . g (CLIPSIM of GODIVA, Wu et al. 2021; a cosine, without Hessel's 2.5);
- `clip-consistency`: mean over t > 0 of f(t) . f(t-1);
- `clip-first-frame`: mean over t > 0 of f(t) . f(0);
- `clip-background`: mean over t > 0 of (max(0, f(t) . f(0)) + max(0, f(t) . f(t-1))) / 2, which is VBench's background
  consistency (Huang et al. 2024) where the model is OpenAI's ViT-B/32;
- `clip-image`: mean over t of f(t) . h.

A mean over frames is blind to their order, and a still picture is the most consistent of all: read them beside motion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from evals import clip_world
from evals.protocol import protocol_string
from magic141.errors import InputError, WeightsMissing

DEFAULT_MODEL, DEFAULT_WEIGHTS = "ViT-B-32", "openai"
_BATCH = 32

Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class ClipJudge:
    """An open_clip model with its own preprocessing and tokenizer. Frames are uint8 (H, W, 3) of any size."""

    name: str
    model: Any
    preprocess: Callable[[Image.Image], Tensor]
    tokenizer: Any

    @classmethod
    def load(
        cls, name: str = DEFAULT_MODEL, weights: str | None = None, device: torch.device | str = "cpu"
    ) -> ClipJudge:
        """A model by open_clip's name and tag or checkpoint file, or as `local-dir:FOLDER` or `hf-hub:OWNER/NAME`.

        The name `world` is the shipped judge of the lab world, see `evals.clip_world`.

        Raises:
            InputError: open_clip knows no such model or tag.
            WeightsMissing: they are not here and cannot be fetched; a model is never scored with random weights.
            WeightsCorrupt: the shipped judge is not what its card describes.
        """
        if name == clip_world.NAME:
            if weights is not None:
                raise InputError(f"the model {name!r} has its own weights: leave --clip-weights out")
            return cls.load_world(device=device)
        if ":" not in name and name not in open_clip.list_models():
            raise InputError(
                f"open_clip has no model {name!r}; see open_clip.list_models(), or give local-dir:FOLDER or"
                f" {clip_world.NAME}"
            )
        if ":" not in name and weights is None:
            weights = DEFAULT_WEIGHTS if name == DEFAULT_MODEL else None
            if weights is None:
                tags = (
                    ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none: give a checkpoint file"
                )
                raise InputError(f"model {name!r} needs weights; open_clip knows {tags}")
        try:
            model = open_clip.create_model(
                name, pretrained=weights, device=device, require_pretrained=True, weights_only=True
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise WeightsMissing(
                f"the weights {weights or name!r} of {name!r} are not here and could not be fetched"
                f" ({str(error).splitlines()[0]}); give a checkpoint file or local-dir:FOLDER"
            ) from error
        settings = open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg)
        return cls(
            # A folder's place is nobody's business; the hash of the weights says which they are.
            name=name.partition(":")[0] if name.startswith("local-dir:") else name,
            model=model.eval().requires_grad_(False),
            preprocess=open_clip.transform.image_transform_v2(settings, is_train=False),
            tokenizer=open_clip.get_tokenizer(name),
        )

    @classmethod
    def load_world(cls, folder: Path = clip_world.FOLDER, device: torch.device | str = "cpu") -> ClipJudge:
        """The judge of the lab world, checked against its card. Raises WeightsMissing or WeightsCorrupt."""
        found = cls.load(f"local-dir:{clip_world.verified(folder)}", device=device)
        return replace(found, name=clip_world.NAME)

    @cached_property
    def identity(self) -> str:
        """The first 16 digits of the sha256 of all weights: what protocol strings call the model."""
        digest = hashlib.sha256()
        for key, tensor in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def images(self, frames: Iterable[Frame]) -> Iterator[NDArray[np.float64]]:
        """Unit vectors (width,) of frames, one by one; the frames stream through in batches."""
        stream = iter(frames)
        while group := list(islice(stream, _BATCH)):
            pixels = torch.stack([self.preprocess(Image.fromarray(frame)) for frame in group])
            vectors = F.normalize(self.model.encode_image(pixels.to(self.device)).double(), dim=-1)
            yield from vectors.cpu().numpy()

    @torch.inference_mode()
    def text(self, prompt: str) -> NDArray[np.float64]:
        """Unit vector (width,) of a prompt; a long one is cut off, see `is_truncated`."""
        tokens = self.tokenizer([prompt]).to(self.device)
        return np.asarray(F.normalize(self.model.encode_text(tokens).double(), dim=-1)[0].cpu().numpy())

    def is_truncated(self, prompt: str) -> bool:
        """Whether the tokenizer cuts `prompt` off: with more room it would give the model more tokens."""
        length = self.tokenizer.context_length
        # Tokenizers pad with other tokens and at other ends; of no words most is padding.
        padding = self.tokenizer([""], context_length=2 * length).flatten().mode().values
        read, whole = (
            int((self.tokenizer([prompt], context_length=room) != padding).sum())
            for room in (length, 2 * length)
        )
        return read < whole

    def named(self, metric: str) -> str:
        """What a score of this module is called: those of the lab's own model are no CLIP scores as others know them,
        and `clip-text`, `clip-image`, … become `clip-world`, `clip-world-image`, …"""
        if self.name != clip_world.NAME:
            return metric
        return "clip-world" if metric == "clip-text" else metric.replace("clip-", "clip-world-")

    def protocol(self, metric: str) -> str:
        """The protocol string of one of this module's scores."""
        return protocol_string(
            metric, model=self.name, weights=self.identity, frames="all", input="native size"
        )


def clip_scores(
    judge: ClipJudge, frames: Iterable[Frame], prompt: str | None = None, image: Frame | None = None
) -> dict[str, float]:
    """Scores of one clip of T frames: those that need a text or an image only where one is given.

    Raises InputError for fewer than 2 frames.
    """
    text = None if prompt is None else judge.text(prompt)
    given = None if image is None else next(judge.images([image]))
    first: NDArray[np.float64] | None = None
    before: NDArray[np.float64] | None = None
    rows: list[tuple[float, float]] = []
    towards_text, towards_image = [], []
    for vector in judge.images(frames):
        if text is not None:
            towards_text.append(float(vector @ text))
        if given is not None:
            towards_image.append(float(vector @ given))
        if first is None or before is None:
            first = vector
        else:
            rows.append((float(vector @ before), float(vector @ first)))
        before = vector
    if not rows:
        raise InputError("consistency over time needs at least 2 frames; an image has none")
    pairs = np.array(rows)
    scores = {
        "clip-consistency": pairs[:, 0].mean(),
        "clip-first-frame": pairs[:, 1].mean(),
        "clip-background": pairs.clip(min=0).mean(),
    }
    if towards_text:
        scores["clip-text"] = np.mean(towards_text)
    if towards_image:
        scores["clip-image"] = np.mean(towards_image)
    return {judge.named(name): float(value) for name, value in scores.items()}
