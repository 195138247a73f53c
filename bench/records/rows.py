"""Lines of the samples of an exam and of analytic records, which are tables and not clips."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bench.records.base import Frozen


class ExamRow(Frozen):
    """How one score answers to one corruption of truth clips: a line of an exam's samples."""

    score: str
    corruption: str
    values: tuple[float, ...] = Field(min_length=2, description="by amount of harm, truth first")
    monotone: float = Field(ge=-1, le=1, description="Spearman's rank correlation of amount and value")
    signal: float = Field(description="shift at the worst amount over the standard error at n clips")
    n: int = Field(gt=0, description="clips for which the standard error is stated")
    verdict: Literal["sees", "moves", "blind", "fooled"]


class AnalyticRow(Frozen):
    """What one system must cost for one clip, by arithmetic alone: a line of an analytic record's samples."""

    system: str
    setting: str = Field(description="size of the clip, steps, passes a step")
    parameters: int = Field(gt=0, description="of all denoisers, counted on the meta device")
    vae_parameters: int = Field(gt=0)
    parameter_bytes: int = Field(gt=0, description="denoisers and VAE in bf16; no text encoder")
    claimed: str = Field(description="size in the publication's words")
    deviation_from_claim: float | None = Field(description="of one denoiser, as a fraction")
    deviation_from_checkpoint: float | None = Field(description="from the published checkpoint's own count")
    video_tokens: int = Field(gt=0)
    other_tokens: int = Field(ge=0, description="of text, image conditions and sound")
    pass_flops: float = Field(gt=0, description="one forward pass of one clip")
    attention_share: float = Field(ge=0, le=1)
    passes: int = Field(gt=0, description="forward passes a clip, guidance included")
    clip_flops: float = Field(gt=0)
    clip_seconds: float = Field(gt=0, description="seconds of video")
    floor_seconds: dict[str, float] = Field(description="roofline of the denoising of a clip, by device")
    source: str
