"""Trains the judge on truth of the lab world: one process, one thread, resumable."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from evals import training
from evals.catalogue import ATTRIBUTES, WEIGHTS, WIDTH
from evals.judge_data import BANDS, STATES, Batch, make_batch
from evals.judges import WorldJudge
from evals.protocol import sha256_of
from evals.results import check_writable
from magic141.data.factors import FRAME_SIZE
from magic141.data.world import Scene, World
from magic141.precision import native_bfloat16
from magic141.source import commit


@dataclass(frozen=True, kw_only=True)
class JudgeTraining:
    """samples: clips seen in all, each once. The rate warms up, stays, and falls to 0 over the last `decay`."""

    samples: int = 64_000
    batch_size: int = 24
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warmup_steps: int = 200
    decay: float = 0.35
    seed: int = 0


class FeatureDecoders(nn.Module):
    """What must be recoverable from the fvd-world features; thrown away after training."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(WIDTH, 128)
        self.state = nn.Linear(128, STATES)
        self.attributes = nn.ModuleDict({name: nn.Linear(128, len(v)) for name, v in ATTRIBUTES.items()})
        self.bands = nn.Linear(WIDTH, BANDS)
        self.band_mean: Tensor
        self.band_std: Tensor
        self.register_buffer("band_mean", torch.zeros(BANDS))
        self.register_buffer("band_std", torch.ones(BANDS))

    def loss(self, features: Tensor, batch: Batch) -> dict[str, Tensor]:
        hidden = F.gelu(self.hidden(features))
        logits = {name: head(hidden) for name, head in self.attributes.items()}
        bands = (batch.bands - self.band_mean) / self.band_std
        return {
            "feature_state": 2 * _masked(self.state(hidden), batch.state),
            "feature_attributes": 0.3 * _classification(logits, batch.labels),
            "feature_bands": F.smooth_l1_loss(self.bands(features).float(), bands),
        }


def _masked(predicted: Tensor, target: Tensor) -> Tensor:
    """Huber loss where the target is not NaN."""
    known = ~target.isnan()
    return F.smooth_l1_loss(predicted.float()[known], target[known], beta=0.2)


def _classification(logits: dict[str, Tensor], labels: dict[str, Tensor]) -> Tensor:
    losses = [
        F.cross_entropy(logits[name].float(), labels[name], ignore_index=-1)
        for name in logits
        if (labels[name] >= 0).any()
    ]
    return torch.stack(losses).sum()


def _scenes(world: World, first: int, count: int) -> list[Scene]:
    """Training scenes number first …; every eighth from the compositional split."""
    return [
        world.scene("compositional", training.UNSEEN + i) if i % 8 == 7 else world.scene("train", i)
        for i in range(first, first + count)
    ]


def train(
    config: JudgeTraining, folder: Path, *, output: Path = WEIGHTS, budget_minutes: float | None = None
) -> bool:
    """Train, checkpointing in `folder` every two minutes and resuming from there; True when finished.

    Weights and card go to `output` at the end. A budget stops (and checkpoints) after so many minutes.

    Raises InputError where the samples fill no batch, where `folder` holds another run, and where the results could not
    be written.
    """
    steps = training.steps_of(config.samples, config.batch_size)
    training.make_folders(folder, output.parent)
    check_writable(output)
    torch.manual_seed(config.seed)
    world = World()
    model = WorldJudge().to(memory_format=torch.channels_last)
    decoders = FeatureDecoders()
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *decoders.parameters()],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    if not (folder / training.CHECKPOINT).exists():
        sample = make_batch(_scenes(world, 0, 256), torch.Generator().manual_seed(config.seed)).bands
        decoders.band_mean.copy_(sample.mean(0))
        decoders.band_std.copy_(sample.std(0))
    model.train()

    def update(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        batch = make_batch(_scenes(world, step * config.batch_size, config.batch_size), generator)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * training.rate(
                step, steps, warmup_steps=config.warmup_steps, decay=config.decay
            )
        losses = _losses(model, decoders, batch)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        return losses

    parts: dict[str, training.Part] = {"model": model, "decoders": decoders, "optimizer": optimizer}
    seconds = training.run(
        "judge",
        folder,
        parts,
        steps,
        update,
        asked=asdict(config),
        every=50,
        budget_minutes=budget_minutes,
    )
    if seconds is None:
        return False
    facts = {
        "command": f"python -m evals judge train --samples {config.samples} --seed {config.seed}",
        "training": asdict(config),
        "threads": torch.get_num_threads(),
        "wall_seconds": round(seconds),
    }
    export(model, output, facts)
    return True


def _losses(model: WorldJudge, decoders: FeatureDecoders, batch: Batch) -> dict[str, Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=native_bfloat16()):
        outputs = model(batch.video, batch.image)
    image_labels = {name: batch.labels[name] for name in outputs.image_logits}
    return {
        "attributes": 0.5 * _classification(outputs.logits, batch.labels),
        "image_attributes": 0.3 * _classification(outputs.image_logits, image_labels),
        "track": 20 * _masked(outputs.track / (FRAME_SIZE / 2) - 1, batch.track),
        "detections": 10 * _masked(outputs.detections / (FRAME_SIZE / 2) - 1, batch.detections),
        **decoders.loss(outputs.features, batch),
    }


def export(model: WorldJudge, output: Path, facts: dict[str, Any]) -> None:
    """Write matrices in float16, norms in float32, and the card beside them."""
    output.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (tensor.half() if tensor.ndim > 1 else tensor.float()).contiguous()
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    temporary = output.with_suffix(".tmp")
    save_file(tensors, temporary)
    os.replace(temporary, output)
    card = {
        "sha256": sha256_of(output),
        "bytes": output.stat().st_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "commit": commit(),
        "torch": torch.__version__,
        **facts,
    }
    training.write_card(output.with_suffix(".json"), card)
