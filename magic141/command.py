"""What `generate` does between its arguments and its mp4: the plan, the pipeline, the bars, and what it prints."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from magic141 import arguments, stages, video
from magic141.device import check_device
from magic141.errors import InputError
from magic141.longvideo_plan import FPS, Plan
from magic141.presets import LAB

if TYPE_CHECKING:
    from magic141.pipeline import Magic141Pipeline

console = Console(markup=False)  # a path may have brackets
notices = Console(stderr=True, markup=False)


class Precision(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def what_to_make(
    prompt: str | None,
    seconds: float | None,
    window: int | None,
    overlap: int | None,
    prompts: str | None,
    against_drift: dict[str, Any],
) -> tuple[Plan | None, arguments.Schedule]:
    """The plan of a long video, none for a clip, and the prompts by second; options that are not given are None.

    Raises InputError.
    """
    if prompt is None and prompts is None:
        raise InputError(f"nothing says what the video shows: give a PROMPT, such as {arguments.EXAMPLE!r}")
    if prompt is not None and prompts is not None:
        raise InputError(
            f"PROMPT {prompt!r} and --prompts {prompts!r} both say what the video shows: give one"
        )
    schedule = [(0.0, prompt or "")] if prompts is None else arguments.parse_schedule(prompts)
    if seconds is None:
        given = {"window": window, "overlap": overlap, "prompts": prompts, **against_drift}
        for name, value in given.items():
            if value is not None:
                option = name.replace("_", "-")
                raise InputError(f"--{option} {value} is for long videos: give --seconds as well")
        return None, schedule
    plan = Plan(
        seconds, LAB.video.num_frames if window is None else window, 1 if overlap is None else overlap
    )
    plan.prompts(schedule)
    if (cross_fade := against_drift["cross_fade"]) is not None:
        arguments.check_cross_fade(cross_fade, plan.overlap)
    if (history_noise := against_drift["history_noise"]) is not None:
        arguments.check_history_noise(history_noise)
    arguments.check_chaining(against_drift["chaining"] or "latent", plan.overlap)
    return plan, schedule


def load(folder: Path, device: str | None, precision: Precision) -> "Magic141Pipeline":
    """The pipeline on its device. Raises InputError for a device that this machine does not have."""
    import diffusers.utils.logging
    import torch
    import transformers.utils.logging

    from magic141.pipeline import Magic141Pipeline

    target = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(target)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    # Not the VAE: in bfloat16 a pixel is wrong by up to a grey level, and decoding takes little of the time.
    parts = dict.fromkeys(("transformer", "text_encoder"), getattr(torch, precision.value))
    pipe = Magic141Pipeline.from_pretrained(folder, dtype={**parts, "default": torch.float32}).to(target)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe: "Magic141Pipeline", hook: stages.StageHook, *, seed: int, **kwargs: Any) -> video.Frames:
    """One clip (T, H, W, 3) uint8; kwargs are the pipeline's."""
    import torch

    pipe.stage_hook = hook
    generator = torch.Generator().manual_seed(seed)
    (frames,) = pipe(**kwargs, generator=generator, output_type="np", return_dict=False)
    return (frames[0] * 255).round().astype("uint8")


def write_long(
    pipe: "Magic141Pipeline", clock: stages.StageClock, plan: Plan, output: Path, *, seed: int, **kwargs: Any
) -> None:
    """Write a long video while it is made; kwargs are those of `Magic141Pipeline.stream`. A bar shows the pace."""
    import torch

    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("real-time factor {task.fields[factor]}"),
    )
    start = time.perf_counter()
    writer = video.VideoWriter(output, FPS)
    try:
        with Progress(*columns, console=notices, transient=True) as bar, writer:
            task = bar.add_task("", total=plan.frames, factor="–")
            pipe.stage_hook = watched(bar, task, clock)
            kwargs |= {"seconds": plan.seconds, "window": plan.window, "overlap": plan.overlap}
            for frames in pipe.stream(**kwargs, generator=torch.Generator().manual_seed(seed)):
                with clock(stages.FILE_ENCODE):
                    writer.write(frames)
                factor = (time.perf_counter() - start) / (writer.frames / FPS)
                bar.update(task, completed=writer.frames, factor=f"{factor:.2f}")
    except KeyboardInterrupt:
        left = (
            f"{output} holds {writer.frames / FPS:.2f} s and plays" if writer.frames else "nothing is written"
        )
        notices.print(f"interrupted: {left}", highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None


def watched(bar: Progress, task: TaskID, clock: stages.StageClock, advance: int = 0) -> stages.StageHook:
    """The hook that runs `clock`, and shows each stage on the bar, which it moves by `advance` an entry."""

    @contextmanager
    def hook(stage: str) -> Iterator[None]:
        bar.update(task, description=stage)
        with clock(stage):
            yield
        bar.advance(task, advance)

    return hook


@contextmanager
def progress(clock: stages.StageClock, total: int) -> Iterator[stages.StageHook]:
    """A progress bar on stderr over `total` stage entries, and the hook that moves it and runs `clock`."""
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=notices, transient=True) as bar:
        yield watched(bar, bar.add_task("", total=total), clock, advance=1)


def facts(clock: stages.StageClock, video_seconds: float) -> dict[str, Any]:
    """Seconds by stage, and the real-time factor: wall seconds, loading apart, by seconds of video."""
    seconds = {stage: sum(samples) for stage, samples in clock.seconds.items()}
    # A window is entered around the stages of its making: they count once.
    outer = (stages.WINDOW, stages.FILE_ENCODE) if stages.WINDOW in seconds else seconds.keys() - {"load"}
    end_to_end = sum(seconds[stage] for stage in outer)
    return {
        "seconds": seconds,
        "entries": {stage: len(samples) for stage, samples in clock.seconds.items()},
        "denoise_step_seconds": clock.seconds.get(stages.DENOISE, []),
        "window_seconds": clock.seconds.get(stages.WINDOW, []),
        "end_to_end_seconds": end_to_end,
        "video_seconds": video_seconds,
        "real_time_factor": end_to_end / video_seconds,
    }


def warn(text: str) -> None:
    notices.print(f"warning: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def show(report: dict[str, Any]) -> None:
    table = Table("stage", "entries", "seconds", box=None, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for stage, seconds in report["seconds"].items():
        table.add_row(stage, str(report["entries"][stage]), f"{seconds:.3f}")
    table.add_row("without load", "", f"{report['end_to_end_seconds']:.3f}", style="bold")
    console.print(table)
    console.print(
        f"{report['output']}: {report['video_seconds']:.2f} s of video, "
        f"real-time factor {report['real_time_factor']:.2f}",
        highlight=False,
        soft_wrap=True,
    )
