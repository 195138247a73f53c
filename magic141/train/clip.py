"""Stage `clip`: a small CLIP learns what captions say and what single frames show.

Contrast with single frames (Radford et al. 2021) teaches nothing about motion. So a captioner, dropped after
training, must write the caption again from one text vector, as in an autoencoder. Another writes it from the image
tokens alone, in part without seeing its own words (CapPa, Tschannen et al. 2023), and the mean image token must
tell which words it has (SuperClass, Huang et al. 2024): so the tokens name what they show.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPModel

from magic141.conditioning import (
    PATCH_SIZE,
    SPECIAL_TOKENS,
    TEXT_LENGTH,
    WIDTH,
    encode_image,
    encode_prompt,
    make_text_image_model,
    make_tokenizer,
    tokenize,
    unit,
)
from magic141.data.render import render
from magic141.data.world import Scene, Split, World
from magic141.precision import native_bfloat16
from magic141.train.loop import Progressed, Settings, autocast, fit

WORLDS = tuple(World(stated=stated) for stated in (0.0, 0.0, 0.5, 1.0))
"""Captions of every entropy dial, so that one text encoder serves them all."""
LATEST_START = 65
VISIBLE = ("shape", "colour", "size", "background", "tone", "hue", "texture")
"""Labels that one frame shows; the others need motion."""


class Captioner(nn.Module):
    """One decoder layer that writes a caption from `memory`; `blind` is the share of captions it writes unseen."""

    def __init__(self, vocab_size: int, unknown: int, padding: int, blind: float) -> None:
        super().__init__()
        self.unknown, self.padding, self.blind = unknown, padding, blind
        self.words = nn.Embedding(vocab_size, WIDTH)
        self.places = nn.Embedding(TEXT_LENGTH, WIDTH)
        self.layer = nn.TransformerDecoderLayer(
            WIDTH, 4, 2 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, vocab_size))
        for table in (self.words, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, memory: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Cross-entropy a word of captions `ids` (B, 40) given `memory` (B, n, 128)."""
        longest = int((ids != self.padding).sum(1).max())
        before, after = ids[:, : longest - 1], ids[:, 1:longest]
        unseen = torch.rand(len(ids), 1, generator=generator) < self.blind
        x = self.words(before.masked_fill(unseen, self.unknown)) + self.places.weight[: longest - 1]
        causal = nn.Transformer.generate_square_subsequent_mask(longest - 1)
        x = self.layer(x, memory, tgt_mask=causal, tgt_is_causal=True)
        real = after != self.padding
        return F.cross_entropy(self.head(x[real]).float(), after[real])


class Objective(nn.Module):
    """The CLIP model with all that is trained beside it and dropped afterwards."""

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        text = model.config.text_config
        self.model, self.padding, self.end = model, text.pad_token_id, text.eos_token_id
        unknown = make_tokenizer().unk_token_id
        self.from_text = Captioner(text.vocab_size, unknown, self.padding, blind=0.5)
        self.from_image = Captioner(text.vocab_size, unknown, self.padding, blind=0.25)
        self.word = nn.Linear(WIDTH, text.vocab_size)
        self.bag = nn.Linear(WIDTH, text.vocab_size)
        self.pixels = nn.Linear(WIDTH, 3 * (PATCH_SIZE // 2) ** 2)

    def forward(self, images: Tensor, ids: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Loss terms for frames (B, 3, 64, 64) in [-1, 1] and token ids (B, 40) of their captions."""
        text, image = self.model.text_model(ids), self.model.vision_model(images)
        rows, real = torch.arange(len(ids)), ids != self.padding
        text_embeds = F.normalize(self.model.text_projection(text.pooler_output), dim=-1)
        image_embeds = F.normalize(self.model.visual_projection(image.pooler_output), dim=-1)
        logits = (text_embeds @ image_embeds.T).float() * self.model.logit_scale.exp().clamp(max=100.0)

        # Padding follows the end marker and sees the whole prompt: train all of it as summaries, since the
        # transformer reads it too. Half of the draws are the end marker, which is the pooled vector.
        text_tokens, image_tokens = unit(text.last_hidden_state), unit(image.last_hidden_state[:, 1:])
        end = (ids == self.end).int().argmax(1)
        drawn = (torch.rand(len(ids), generator=generator) * (TEXT_LENGTH - end)).long()
        drawn[torch.rand(len(ids), generator=generator) < 0.5] = 0
        summary = text_tokens[rows, end + drawn][:, None]

        bag = torch.zeros(len(ids), self.bag.out_features).scatter_(1, ids, 1.0)
        bag[:, : len(SPECIAL_TOKENS)] = 0.0
        patches = F.pixel_unshuffle(F.avg_pool2d(images, 2), PATCH_SIZE // 2).flatten(2).mT
        terms = {
            "contrast": (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2,
            "from_text": self.from_text(summary, ids, generator),
            "from_image": self.from_image(image_tokens, ids, generator),
            "bag": F.cross_entropy(self.bag(image_tokens.mean(1)).float(), bag / bag.sum(1, keepdim=True)),
            "word": F.cross_entropy(self.word(text_tokens[real]).float(), ids[real]),
            "offset": offset(text_tokens) + offset(text_tokens[rows, end]) + offset(image_tokens),
            "pixels": F.mse_loss(self.pixels(image_tokens).float(), patches),
        }
        return {"loss": torch.stack(list(terms.values())).sum()} | terms


def offset(vectors: Tensor) -> Tensor:
    """Mean square of what all `vectors` (…, 128) share: at unit scale, the share of variance that tells nothing.

    Left alone, two captions that differ in one word get pooled vectors with a cosine of 0.99.
    """
    return vectors.float().flatten(0, -2).mean(0).square().mean()


def pictures(scenes: Sequence[Scene], starts: list[int]) -> Tensor:
    """Frame `starts[i]` of scene i, (B, 3, 64, 64) in [-1, 1]."""
    return render(scenes, 1, starts)[:, 0].permute(0, 3, 1, 2).float() / 127.5 - 1.0


def train(settings: Settings) -> tuple[CLIPModel, Progressed]:
    """Train and return the averaged model and what it saw. Folders and exam are left in `settings.out / "clip"`."""
    torch.manual_seed(settings.seed)
    tokenizer, model = make_tokenizer(), make_text_image_model()
    objective = Objective(model)
    # The fused attention kernel's backward pass is many times slower on a CPU than plain matrix products.
    model.set_attn_implementation("eager")

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        first = step * settings.batch_size
        indices = range(first, first + settings.batch_size)
        scenes = [WORLDS[index % len(WORLDS)].scene("train", index) for index in indices]
        starts = torch.randint(LATEST_START, (len(scenes),), generator=generator).tolist()
        captions = [scene.caption(start) for scene, start in zip(scenes, starts, strict=True)]
        with autocast(), sdpa_kernel(SDPBackend.MATH):
            return objective(pictures(scenes, starts), tokenize(tokenizer, captions), generator)

    out = settings.out / "clip"
    average, seen = fit(objective, loss, replace(settings, out=out))
    model.load_state_dict(average.get_submodule("model").state_dict())
    model.bfloat16().eval().set_attn_implementation("sdpa")
    save(model, out)
    if not native_bfloat16():
        model.float()  # the same rounded weights, faster
    (out / "exam.json").write_text(json.dumps(exam(model), indent=2) + "\n", "utf-8")
    return model, seen


def save(model: CLIPModel, folder: Path) -> None:
    """Write `folder`/text_encoder and `folder`/tokenizer, each in one step."""
    for name, part in (("text_encoder", model), ("tokenizer", make_tokenizer())):
        partial, final = folder / f"{name}.partial", folder / name
        shutil.rmtree(partial, ignore_errors=True)
        part.save_pretrained(partial)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)


@dataclass(frozen=True)
class Features:
    """What the model makes of N scenes: inputs of probes, and their answers."""

    pooled: Tensor
    image_tokens: Tensor
    labels: dict[str, Tensor]
    positions: Tensor
    retrieval: float

    @classmethod
    @torch.no_grad()
    def of(cls, model: CLIPModel, split: Split, count: int) -> Features:
        """Features of the first `count` scenes of `split`, with nothing hidden stated, each at a random frame."""
        tokenizer, world, batch = make_tokenizer(), World(), 250
        starts = torch.randint(LATEST_START, (count,), generator=torch.Generator().manual_seed(0)).tolist()
        scenes = world.scenes(split, 0, count)
        captions = [scene.caption(start) for scene, start in zip(scenes, starts, strict=True)]
        pooled, image_tokens, right = [], [], 0
        for first in range(0, count, batch):
            part = slice(first, first + batch)
            images, ids = pictures(scenes[part], starts[part]), tokenize(tokenizer, captions[part])
            pooled.append(encode_prompt(model, tokenizer, captions[part])[1].float())
            image_tokens.append(encode_image(model, images).float())
            match = model(input_ids=ids, pixel_values=images.to(model.dtype)).logits_per_image.argmax(1)
            right += sum(captions[first + int(j)] == captions[first + i] for i, j in enumerate(match))
        answers = [scene.labels(start) for scene, start in zip(scenes, starts, strict=True)]
        places = [scene.truth(1, start).positions[0, 0] for scene, start in zip(scenes, starts, strict=True)]
        return cls(
            torch.cat(pooled),
            torch.cat(image_tokens),
            {key: torch.tensor([answer[key] for answer in answers]) for key in answers[0]},
            torch.tensor(np.array(places), dtype=torch.float32),
            right / count,
        )


def exam(model: CLIPModel, train_size: int = 6000, test_size: int = 2000) -> dict[str, float]:
    """What a linear probe reads, as accuracies. Fitted on validation scenes, scored on scenes of two other splits.

    `text …`: from the pooled text. `image …`: from the mean image token, for what one frame shows. Those named
    `compositional` are scored on factor pairs that training never showed. `image position`: share of the variance
    of the subject's x and y that all image tokens explain. `retrieval`: frame to caption among 250, where captions
    that differ in motion alone cannot be told apart.
    """
    known = Features.of(model, "validation", train_size)
    scores = {}
    splits: tuple[tuple[Split, str], ...] = (("test", ""), ("compositional", " compositional"))
    for split, suffix in splits:
        asked = Features.of(model, split, test_size)
        for key, labels in known.labels.items():
            scores[f"text {key}{suffix}"] = probe(known.pooled, labels, asked.pooled, asked.labels[key])
            if key in VISIBLE:
                mean, asked_mean = known.image_tokens.mean(1), asked.image_tokens.mean(1)
                scores[f"image {key}{suffix}"] = probe(mean, labels, asked_mean, asked.labels[key])
        scores[f"image position{suffix}"] = explained(known, asked)
        scores[f"retrieval{suffix}"] = asked.retrieval
    return {name: round(score, 4) for name, score in scores.items()}


def probe(features: Tensor, labels: Tensor, asked: Tensor, answers: Tensor) -> float:
    """Accuracy of multinomial logistic regression on `asked`; rows labelled -1 (undefined) do not count."""
    mean, scale = features.mean(0), features.std(0) + 1e-3
    x, y = ((features - mean) / scale)[labels >= 0], labels[labels >= 0]
    linear = nn.Linear(x.shape[1], int(labels.max()) + 1)
    nn.init.zeros_(linear.weight)
    solver = torch.optim.LBFGS(linear.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(linear(x), y) + 1e-4 * linear.weight.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    defined = answers >= 0
    guess = linear((asked - mean) / scale).argmax(1)
    return float((guess == answers)[defined].float().mean())


def explained(known: Features, asked: Features, ridge: float = 1.0) -> float:
    """R² of ridge regression from all image tokens to the subject's place."""
    mean, centre = known.image_tokens.flatten(1).mean(0), known.positions.mean(0)
    x, y = known.image_tokens.flatten(1) - mean, known.positions - centre
    weight = torch.linalg.solve(x.T @ x + ridge * len(x) * torch.eye(x.shape[1]) / 100, x.T @ y)
    error = (asked.image_tokens.flatten(1) - mean) @ weight + centre - asked.positions
    return float(1 - error.square().sum() / (asked.positions - asked.positions.mean(0)).square().sum())
