"""Trains the CLIP judge of the lab world on frames and captions: one process, one thread, resumable."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from evals import training
from evals.clip_world import CARD_FILE, FOLDER, WEIGHTS_FILE
from evals.judge_data import corrupt
from evals.judges import to_pixels
from evals.protocol import sha256_of
from magic141.data.factors import FRAME_SIZE
from magic141.data.render import render
from magic141.data.world import VOCABULARY, Scene, World
from magic141.source import commit

PAD, END, BEGIN, UNKNOWN = SPECIAL_TOKENS = ("[pad]", "[end]", "[begin]", "[unknown]")
CONTEXT = 40
"""Tokens of the longest caption, with nothing hidden left unsaid, and its two markers."""
MODEL = {
    "embed_dim": 64,
    # Convolutions, where the generator's own CLIP has 16 patches of 16x16: shapes are 14 pixels wide.
    "vision_cfg": {"image_size": FRAME_SIZE, "layers": [1, 1, 1, 1], "width": 12, "head_width": 64},
    "text_cfg": {
        "context_length": CONTEXT,
        "vocab_size": len(SPECIAL_TOKENS) + len(VOCABULARY),
        "hf_tokenizer_name": "clip-world",
        "width": 64,
        "heads": 4,
        "layers": 2,
        "pool_type": "eos",
        "eos_id": SPECIAL_TOKENS.index(END),
    },
}
"""The config of open_clip: a ResNet of CLIP's kind (Radford et al. 2021, section 2.4) of 0.8 M parameters, a text
tower of 0.1 M. The tokenizer's name only says that there is one: open_clip takes the files in the folder."""
PREPROCESS = {"size": FRAME_SIZE, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
WORLDS = tuple(World(stated=stated) for stated in (0.0, 0.0, 0.5, 1.0))
"""Captions of every entropy dial, so that one judge serves them all."""
LATEST_START = 65
CLIP_FRAMES = 33
_LARGEST_SCALE = math.log(100)


@dataclass(frozen=True, kw_only=True)
class ClipWorldTraining:
    """samples: frames seen in all, each of another scene. The rate warms up, stays, and falls to 0 over `decay`."""

    samples: int = 64_000
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warmup_steps: int = 100
    decay: float = 0.4
    seed: int = 141


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One word, one token; case and punctuation are ignored."""
    ids = {word: i for i, word in enumerate((*SPECIAL_TOKENS, *VOCABULARY))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\w\s]|_"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}", special_tokens=[(BEGIN, ids[BEGIN]), (END, ids[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=CONTEXT,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=UNKNOWN,
    )


def _scene(index: int) -> Scene:
    """Training scene number `index`; every eighth from the compositional split."""
    world = WORLDS[index % len(WORLDS)]
    if index // len(WORLDS) % 8 == 7:
        return world.scene("compositional", training.UNSEEN + index)
    return world.scene("train", index)


def make_batch(first: int, count: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
    """One frame of each of scenes `first` …, corrupted mildly, (count, 3, 64, 64) in [-1, 1], and their captions.

    A clip begins anywhere in its scene and is captioned there; the frame is any of its 33.
    """
    scenes = [_scene(index) for index in range(first, first + count)]
    starts = torch.randint(LATEST_START, (count,), generator=generator)
    shown = starts + torch.randint(CLIP_FRAMES, (count,), generator=generator)
    captions = [scene.caption(start) for scene, start in zip(scenes, starts.tolist(), strict=True)]
    frames = to_pixels(render(scenes, 1, shown.tolist())[:, 0])
    pixels = torch.stack([corrupt(frame, generator) for frame in frames])
    return pixels.permute(0, 3, 1, 2), captions


def contrastive_loss(model: open_clip.CLIP, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric cross-entropy of which caption is whose (Radford et al. 2021, figure 3), and the share found.

    pixels: (B, 3, 64, 64) in [-1, 1]; tokens: (B, 40).
    """
    images, texts = model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)
    logits = model.logit_scale.exp() * images @ texts.T
    own = torch.arange(len(logits))
    loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    return loss, (logits.argmax(1) == own).float().mean()


def train(
    config: ClipWorldTraining, folder: Path, *, output: Path = FOLDER, budget_minutes: float | None = None
) -> bool:
    """Train, checkpointing in `folder` every two minutes and resuming from there; True when finished.

    The folder that open_clip reads goes to `output` at the end. A budget stops (and checkpoints) after so many
    minutes.

    Raises InputError where the samples fill no batch, and where `folder` holds another run.
    """
    steps = training.steps_of(config.samples, config.batch_size)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    tokenizer = make_tokenizer()
    model = open_clip.CLIP(**MODEL).to(memory_format=torch.channels_last)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
    )
    model.train()

    def update(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        pixels, captions = make_batch(step * config.batch_size, config.batch_size, generator)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * training.rate(
                step, steps, warmup_steps=config.warmup_steps, decay=config.decay
            )
        loss, found = contrastive_loss(model, pixels, _tokens(tokenizer, captions))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, _LARGEST_SCALE)
        return {"loss": loss, "found": found, "scale": model.logit_scale.exp()}

    parts: dict[str, training.Part] = {"model": model, "optimizer": optimizer}
    seconds = training.run(
        "clip-world",
        folder,
        parts,
        steps,
        update,
        asked=asdict(config),
        every=20,
        budget_minutes=budget_minutes,
    )
    if seconds is None:
        return False
    facts = {
        "command": f"python -m evals clip-world train --samples {config.samples} --seed {config.seed}",
        "training": asdict(config),
        "threads": torch.get_num_threads(),
        "wall_seconds": round(seconds),
    }
    export(model, output, facts)
    return True


def _tokens(tokenizer: PreTrainedTokenizerFast, captions: Sequence[str]) -> Tensor:
    """Token ids (B, 40), as open_clip's own wrapper of this tokenizer makes them."""
    found: Tensor = tokenizer(
        list(captions), padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
    ).input_ids
    return found


def export(model: open_clip.CLIP, output: Path, facts: dict[str, Any]) -> None:
    """Write the folder that open_clip reads, in one step: matrices in float16, all else as it is, and the card."""
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    make_tokenizer().save_pretrained(partial)
    settings = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}
    (partial / "open_clip_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    tensors = {
        name: (tensor.half() if tensor.ndim > 1 else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(tensors, partial / WEIGHTS_FILE)
    card = {
        "sha256": {path.name: sha256_of(path) for path in sorted(partial.iterdir())},
        "bytes": sum(path.stat().st_size for path in partial.iterdir()),
        "parameters": sum(p.numel() for p in model.parameters()),
        "commit": commit(),
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        **facts,
    }
    training.write_card(partial / CARD_FILE, card)
    shutil.rmtree(output, ignore_errors=True)
    os.replace(partial, output)
