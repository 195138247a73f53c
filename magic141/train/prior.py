"""`prior KIND`: does the multi-modal prior make image to video converge faster?

The stage `i2v` reduced to the one task, from a text-to-image checkpoint, with the whole prior or a part of it. Its
snapshots are what a curve of quality against samples needs; nothing of it ships.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from magic141 import weights
from magic141.data.world import World
from magic141.pipeline import Magic141Pipeline
from magic141.presets import LAB
from magic141.scheduler import FlowMatchScheduler
from magic141.train.flow import Denoiser, noised_tokens, read_denoiser
from magic141.train.folders import same_plan
from magic141.train.i2v import CONDITION_NOISE, FRAMES, SHIFT, TOKEN_NOISE
from magic141.train.latents import CLIPS, encode_sets
from magic141.train.loop import Progressed, Settings, autocast, fit
from magic141.train.resident import sampler_on
from magic141.train.student import store

KINDS = {"both": "latent_concat", "latent": "latent_only", "tokens": "tokens_only"}
"""Parts of the prior that the model is shown, and how its configuration says so."""


def run(
    kind: str, settings: Settings, latents: Path, base: Path, initial: Path | None, stored: int, world: World
) -> Progressed:
    """Train image to video on clips of `world` and keep snapshots in `settings.out`.

    base: pipeline whose VAE and text encoder are used. initial: the `denoiser.pt` of a stage `t2i`; else from nothing.

    Raises InputError where that folder holds the run of another plan, and where `initial` is no denoiser.
    """
    torch.manual_seed(settings.seed)
    model = Denoiser(KINDS[kind]) if initial is None else read_denoiser(initial, KINDS[kind])
    pipe = Magic141Pipeline.from_pretrained(base)
    facts = {"prior": kind, "stated": world.stated, "events": world.events}
    starts = {"base": weights.fingerprint(base), "initial": initial and weights.file_sha256(initial)}
    same_plan(settings.out, {**facts, "seed": settings.seed, **starts})
    vae, clip = pipe.vae.to(settings.device), pipe.text_encoder.to(settings.device)
    clips = encode_sets(latents, [CLIPS], stored, world, vae, clip)[CLIPS.name]
    sampler = sampler_on(settings.device, clip, pipe.tokenizer)

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        batch = sampler.draw(clips, settings.batch_size, generator, frames=FRAMES, known=1)
        assert batch.image_tokens is not None
        batch = replace(batch, image_tokens=noised_tokens(batch.image_tokens, TOKEN_NOISE, generator))
        with autocast(settings.device):
            terms: dict[str, Tensor] = model(batch, SHIFT, CONDITION_NOISE, generator)
        return terms

    def keep(average: Denoiser, seen: Progressed) -> None:
        scheduler = FlowMatchScheduler(shift=LAB.sampler.shift)
        folder = settings.out / "snapshots" / f"{seen.step:07d}"
        store(pipe, average.transformer, scheduler, facts | vars(seen), folder)

    return fit(model, loss, settings, keep=keep)[1]
