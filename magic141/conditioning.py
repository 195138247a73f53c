"""What the transformer is told: text tokens, a pooled text vector, image tokens, and the prior made of them.

At lab scale all three come from one small CLIP that this repository trains itself (`magic141.train.clip`):
a stock `transformers.CLIPModel` of about 1.5 M parameters, and a stock word-level tokenizer. Prompts have one of two
lengths, and padding is part of the sequence (as in Stable Diffusion), so no attention mask is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from magic141.arguments import MAX_WORDS, check_prompt
from magic141.data.world import VOCABULARY
from magic141.errors import InputError

TEXT_LENGTH = MAX_WORDS + 2
"""Tokens of a prompt, at most: the beginning and end markers, the words, then padding."""
USUAL_LENGTH = 24
"""Tokens of a prompt of at most 22 words. Captions that state no hidden factor are shorter, and every token costs."""
WIDTH = 128
IMAGE_SIZE = 64
PATCH_SIZE = 16
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
# The order gives the ids. The end marker must not have id 2, for which CLIPTextModel keeps an old behaviour.
PAD, BOS, UNK, EOS = SPECIAL_TOKENS = ("<pad>", "<bos>", "<unk>", "<eos>")


def make_tokenizer(vocabulary: Sequence[str] = VOCABULARY) -> PreTrainedTokenizerFast:
    """A word-level tokenizer over `vocabulary`: case and punctuation are ignored, one word is one token."""
    ids = {word: i for i, word in enumerate((*SPECIAL_TOKENS, *sorted(set(vocabulary))))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"[^\w\s]|_"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, ids[BOS]), (EOS, ids[EOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=TEXT_LENGTH,
        pad_token=PAD,
        bos_token=BOS,
        unk_token=UNK,
        eos_token=EOS,
    )


def make_text_image_model(vocabulary: Sequence[str] = VOCABULARY) -> CLIPModel:
    """The untrained lab CLIP, 1.5 M parameters: two towers of four layers, width 128, 16 patches of 16x16."""
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "projection_dim": WIDTH,
    }
    ids = {f"{name}_token_id": i for i, name in enumerate(("pad", "bos", "unk", "eos")) if name != "unk"}
    text = (
        tower
        | ids
        | {
            "vocab_size": len(SPECIAL_TOKENS) + len(set(vocabulary)),
            "max_position_embeddings": TEXT_LENGTH,
        }
    )
    vision = tower | {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def as_batch(prompts: str | Sequence[str]) -> list[str]:
    """One prompt or several as a list. Raises InputError for anything that is not text."""
    batch = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(batch, Sequence) or not all(isinstance(prompt, str) for prompt in batch):
        raise InputError(f"prompt must be text or a list of texts, got {prompts!r}")
    return list(batch)


def tokenize(tokenizer: PreTrainedTokenizerFast, prompts: str | Sequence[str]) -> Tensor:
    """Token ids (B, 40) of prompts that `check_prompt` accepts."""
    return tokenizer(
        as_batch(prompts), padding="max_length", truncation=True, max_length=TEXT_LENGTH, return_tensors="pt"
    ).input_ids


@torch.no_grad()
def encode_prompt(
    model: CLIPModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: str | Sequence[str],
    *,
    allow_empty: bool = False,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """Text tokens (B, 24, 128) and the pooled text (B, 128) of `prompts`; (B, 40, 128) where one has over 22 words.

    The pooled vector is the state of the end marker, not CLIP's projection of it: the projection is trained
    to agree with single images, and so has no reason to keep words about motion. The empty prompt, which
    classifier-free guidance needs, must be asked for with `allow_empty`. `device` computes: that of
    the model, unless it is kept elsewhere until it is needed. Raises InputError.
    """
    batch = as_batch(prompts)
    for prompt in batch:
        check_prompt(tokenizer.backend_tokenizer, prompt, allow_empty)
    return encode_ids(model, tokenize(tokenizer, batch), device=device)


@torch.no_grad()
def encode_ids(
    model: CLIPModel, ids: Tensor, *, trim: bool = True, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """`encode_prompt` from token ids (B, 40) on the CPU; without `trim`, 40 tokens of any prompts."""
    if trim and not (ids[:, USUAL_LENGTH:] != model.config.text_config.pad_token_id).any():
        ids = ids[:, :USUAL_LENGTH]  # attention is causal: padding that follows changes no other token
    output = model.text_model(ids.to(device or model.device))
    return unit(output.last_hidden_state), unit(output.pooler_output)


@torch.no_grad()
def encode_image(model: CLIPModel, images: Tensor, *, device: torch.device | None = None) -> Tensor:
    """Image tokens (B, 16, 128), one a patch in raster order, of `images` (B, 3, 64, 64) in [-1, 1].

    Raises InputError for images of another shape.
    """
    expected = (3, IMAGE_SIZE, IMAGE_SIZE)
    if images.ndim != 4 or tuple(images.shape[1:]) != expected:
        raise InputError(
            f"images must have shape (B, 3, 64, 64), got {tuple(images.shape)}: resize them first"
        )
    pixels = images.to(device or model.device, model.dtype)
    return unit(model.vision_model(pixels).last_hidden_state[:, 1:])


def prior(text_tokens: Tensor, image_tokens: Tensor | None = None) -> Tensor:
    """The multi-modal prior: image, then text tokens, (B, 16 + L, 128). Without an image, text alone."""
    return text_tokens if image_tokens is None else torch.cat([image_tokens, text_tokens], dim=1)


def visible(
    image_condition_type: str | None, image_tokens: Tensor | None, image_latent: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """What a model is shown of an image: both parts of the prior, or the one that it was trained with."""
    return (
        None if image_condition_type == "latent_only" else image_tokens,
        None if image_condition_type == "tokens_only" else image_latent,
    )


def known_channels(latents: Tensor, image_latent: Tensor | None) -> Tensor:
    """The 17 channels beside the noisy latents (B, 16, t, h, w): the clean latent, 0 where unknown, and the mask.

    `image_latent` (B, 16, k, h, w) holds the first k latent frames; the mask is 1 there.
    """
    batch, channels, frames, height, width = latents.shape
    known = latents.new_zeros(batch, channels + 1, frames, height, width)
    if image_latent is not None:
        known[:, :channels, : image_latent.shape[2]] = image_latent
        known[:, channels:, : image_latent.shape[2]] = 1
    return known


@dataclass(frozen=True)
class Condition:
    """What a denoising run of B clips is told."""

    text_tokens: Tensor  # (n + B, L, 128): of the negative prompts, n = 0, 1 or B, then of the prompts
    pooled: Tensor  # (n + B, 128)
    guidance_scale: float
    image_tokens: Tensor | None = None  # (B, 16, 128)
    image_latent: Tensor | None = None  # (B, 16, k, h, w), the k clean latent frames that are known

    def rows(self, batch: int) -> tuple[Tensor, Tensor]:
        """The multi-modal prior and the pooled text of `batch` rows; with guidance, of as many unguided ones before."""
        tokens, pooled = prior(self.text_tokens[-batch:], self.image_tokens), self.pooled[-batch:]
        if self.guidance_scale == 1:
            return tokens, pooled
        negative = prior(self.text_tokens[:-batch].expand(batch, -1, -1), self.image_tokens)
        return torch.cat([negative, tokens]), torch.cat([self.pooled[:-batch].expand(batch, -1), pooled])


def unit(x: Tensor) -> Tensor:
    """Unit variance token by token, so that neither modality drowns the other in the transformer's input."""
    return F.layer_norm(x, x.shape[-1:])
