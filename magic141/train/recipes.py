"""The recipe of the shipped lab weights: settings of every stage, and how one stage's output feeds the next.

A stage takes the weights it needs from the run's own folder, or else those that ship.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPModel

from magic141 import weights
from magic141.autoencoder import AutoencoderMagic141
from magic141.conditioning import make_tokenizer
from magic141.data.world import World
from magic141.errors import InputError
from magic141.precision import native_bfloat16
from magic141.presets import LAB
from magic141.scheduler import FlowMatchScheduler
from magic141.sparsify.structured import check_whole
from magic141.train import clip as clip_stage
from magic141.train import i2v as i2v_stage
from magic141.train import t2i as t2i_stage
from magic141.train import vae as vae_stage
from magic141.train.card import facts_of, write_card
from magic141.train.flow import Denoiser, Sampler, read_denoiser
from magic141.train.folders import PLAN, check_target, same_plan
from magic141.train.latents import (
    CLIPS,
    IMAGES,
    LONG,
    WORLD,
    LatentSet,
    SetSpec,
    encode_sets,
    encoders_sha256,
    rounded_sha256,
)
from magic141.train.loop import Progressed, Settings
from magic141.train.options import CLIPS_STORED
from magic141.train.resident import sampler_on
from magic141.train.student import as_shipped


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the command line asks of a stage. `batch_size`: None leaves the recipe's. `stored`: clips to encode.
    `rate`: a factor on the recipe's learning rates. `compile`: the transformer with torch.compile. `stated`: shares of
    hidden factors that captions state, of which scenes take turns. `terse`: captions name the subject alone.
    `latents`: the folder of encoded scenes, if not the run's own.
    """

    out: Path
    budget: float
    samples: int
    seed: int = 0
    initial: str | None = None
    device: str = "cpu"
    batch_size: int | None = None
    stored: int = CLIPS_STORED
    rate: float = 1.0
    compile: bool = False
    stated: tuple[float, ...] = (WORLD.stated,)
    terse: bool = False
    latents: Path | None = None

    def __post_init__(self) -> None:
        for share in self.stated:
            World(stated=share, terse=self.terse)  # raises InputError, before anything is encoded

    def settings(self, *, batch_size: int, lr: float, muon_lr: float, **others: Any) -> Settings:
        return Settings(
            out=self.out,
            samples=self.samples,
            budget_minutes=self.budget,
            seed=self.seed,
            device=self.device,
            compile=self.compile,
            batch_size=self.batch_size or batch_size,
            lr=self.rate * lr,
            muon_lr=self.rate * muon_lr,
            **others,
        )

    def encoded(self, *specs: SetSpec) -> list[LatentSet]:
        """The latent sets of a transformer stage, encoded first where they are not yet."""
        vae, text = _vae(self.out).to(self.device), _clip(self.out).to(self.device)
        told = [replace(spec, stated=self.stated) for spec in specs]
        where = self.latents or self.out / "latents"
        return [*encode_sets(where, told, self.stored, World(terse=self.terse), vae, text).values()]

    @property
    def encoders(self) -> str:
        """The sha256 of the weights that the latents of this run are made by."""
        return encoders_sha256(_vae(self.out), _clip(self.out))

    def same_plan(self, stage: str, start: Denoiser | None = None) -> None:
        """Raise InputError where the stage's folder holds a run from other weights, of another seed or captions.

        start: the denoiser that the stage goes on from; None of one that starts from nothing.
        """
        asked = {
            "initial": self.initial,
            "seed": self.seed,
            "stated": list(self.stated),
            "terse": self.terse,
            "encoders": self.encoders,
            # Without the head beside the transformer, which is drawn anew for one that a pipeline has.
            "start": None if start is None else rounded_sha256((start.transformer, torch.float16)),
        }
        folder = self.out / stage
        same_plan(folder, asked, f"delete {folder} to train it anew, or give another --out")

    def sampler(self) -> Sampler:
        return sampler_on(self.device, _clip(self.out), make_tokenizer())


def train_vae(run: Run) -> Progressed:
    _no_transformer("vae", run)
    model, seen = vae_stage.train(run.settings(batch_size=16, lr=1.2e-3, muon_lr=1.2e-3))
    model.save_pretrained(run.out / "vae" / "model")
    return seen


def train_clip(run: Run) -> Progressed:
    _no_transformer("clip", run)
    if run.device != "cpu":
        raise InputError(f"--device {run.device}: stage 'clip' trains on the CPU, in minutes")
    return clip_stage.train(run.settings(batch_size=128, lr=1e-3, muon_lr=5e-3, warmup_steps=50, ema=0.99))[1]


def train_t2i(run: Run) -> Progressed:
    settings = run.settings(batch_size=64, lr=2e-3, muon_lr=4e-3, warmup_steps=50)
    start = _denoiser(run.initial) if run.initial else None
    run.same_plan("t2i", start)
    (images,) = run.encoded(IMAGES)
    model, seen = t2i_stage.train(settings, run.sampler(), images, start)
    torch.save(model.state_dict(), run.out / "t2i" / "denoiser.pt")
    return seen


def train_i2v(run: Run) -> Progressed:
    settings = run.settings(batch_size=32, lr=2e-3, muon_lr=4e-3, warmup_steps=50)
    if run.initial:
        start = _denoiser(run.initial)
    else:
        _check_encoders(run.out / "t2i", run.encoders)
        start = _trained_denoiser(run.out / "t2i" / "denoiser.pt")
    run.same_plan("i2v", start)
    images, clips, long = run.encoded(IMAGES, CLIPS, LONG)
    model, seen = i2v_stage.train(settings, run.sampler(), images, clips, long, start)
    torch.save(model.state_dict(), run.out / "i2v" / "denoiser.pt")
    return seen


STAGES = {"vae": train_vae, "clip": train_clip, "t2i": train_t2i, "i2v": train_i2v}


def pack(out: Path, target: Path) -> None:
    """Write the trained stages of `out` as one diffusers folder, in half precision, with model card and checksums.

    Stages that `out` lacks come from the shipped weights.

    Raises InputError when it has none at all, when its transformer was trained with other encoders than it has now, and
    when `target` is no pipeline that could be replaced.
    """
    from magic141.pipeline import Magic141Pipeline

    check_target(target)
    trained = ("vae/model", "clip/text_encoder", "i2v/denoiser.pt")
    if not any((out / part).exists() for part in trained):
        raise InputError(f"{out} holds no trained stage: train one first, or name the folder with --out")
    vae, text_encoder = _vae(out), _clip(out)
    _check_encoders(out / "i2v", encoders_sha256(vae, text_encoder))
    pipeline = Magic141Pipeline(
        transformer=_trained_denoiser(out / "i2v" / "denoiser.pt").transformer.half(),
        vae=vae.half(),
        text_encoder=as_shipped(text_encoder),
        tokenizer=make_tokenizer(),
        scheduler=FlowMatchScheduler(shift=LAB.sampler.shift),
    )
    facts, exams = facts_of(out, weights.resolve(LAB.name))
    pipeline.save_pretrained(target)
    write_card(facts, exams, target / "README.md")
    weights.seal(target)


def _check_encoders(stage: Path, made_by: str) -> None:
    """Raise InputError where what `stage` left was trained with encoders of another sha256 than `made_by`."""
    plan = stage / PLAN
    if not (stage / "denoiser.pt").exists() or not plan.exists():
        return
    # A run of an older version did not write it down.
    trained_with = json.loads(plan.read_text("utf-8")).get("encoders", made_by)
    if trained_with != made_by:
        raise InputError(
            f"{stage} was trained with other encoders (sha256 {trained_with[:12]}…, and those in {stage.parent} are "
            f"{made_by[:12]}…): delete it and train the transformer anew, or bring the encoders back"
        )


def _no_transformer(stage: str, run: Run) -> None:
    """Raise InputError where a run asks of stage `vae` or `clip` what only the transformer's stages do."""
    if run.initial is not None:
        raise InputError(f"--initial {run.initial}: stage {stage!r} takes none; it is for t2i and i2v")
    if run.compile:
        raise InputError(f"--compile: stage {stage!r} trains no transformer; it is for t2i and i2v")
    if run.latents is not None:
        raise InputError(f"--latents {run.latents}: stage {stage!r} encodes no scenes; it is for t2i and i2v")
    if run.stated != (WORLD.stated,):
        raise InputError(f"--stated: stage {stage!r} has captions of its own; it is for t2i and i2v")
    if run.terse:
        raise InputError(f"--terse: stage {stage!r} has captions of its own; it is for t2i and i2v")


def _trained_denoiser(path: Path) -> Denoiser:
    """What a stage left at `path`, or else the shipped transformer."""
    if not path.exists():
        return _denoiser(LAB.name)
    return read_denoiser(path)


def _denoiser(source: str) -> Denoiser:
    """The transformer of a pipeline folder or preset, with a new training head; or what a stage left in a file.

    Raises InputError for one that is pruned, and for a file that is no denoiser.
    """
    if Path(source).is_file():
        return read_denoiser(Path(source))
    from magic141.pipeline import Magic141Pipeline

    denoiser = Denoiser()
    denoiser.transformer = Magic141Pipeline.from_pretrained(source).transformer
    check_whole(denoiser.transformer)
    return denoiser


def _vae(out: Path) -> AutoencoderMagic141:
    folder = _trained_or_shipped(out / "vae" / "model", "vae")
    model = AutoencoderMagic141.from_pretrained(folder, dtype=torch.float32)
    return model.to(memory_format=torch.channels_last).eval()


def _clip(out: Path) -> CLIPModel:
    folder = _trained_or_shipped(out / "clip" / "text_encoder", "text_encoder")
    dtype = torch.bfloat16 if native_bfloat16() else torch.float32
    return CLIPModel.from_pretrained(folder, dtype=dtype).eval()


def _trained_or_shipped(folder: Path, part: str) -> Path:
    return folder if folder.exists() else weights.resolve(LAB.name) / part
