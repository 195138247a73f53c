"""The command line of magic141: `generate` a clip, and check or seal weights.

Arguments are checked before PyTorch is imported, and so is `--help` written.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from magic141 import arguments, stages, video
from magic141 import sparsify as sparsify_package
from magic141 import weights as weights_folder
from magic141.errors import InputError, Magic141Error
from magic141.longvideo_plan import FPS, Plan
from magic141.presets import LAB

if TYPE_CHECKING:
    from magic141.pipeline import Magic141Pipeline

console = Console()
notices = Console(stderr=True)


class Criterion(StrEnum):
    magnitude = "magnitude"
    activation = "activation"
    taylor = "taylor"


class Door(typer.core.TyperGroup):
    """Prints the errors that this package raises on purpose, without a traceback, and exits with code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Magic141Error as error:
            notices.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(2) from None


app = typer.Typer(cls=Door, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
weights_app = typer.Typer(no_args_is_help=True, help="Check or seal a folder of weights.")
app.add_typer(weights_app, name="weights")


class Chaining(StrEnum):
    latent = "latent"
    frame = "frame"


class Precision(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@app.callback()
def main() -> None:
    """Magic 1-For-1: text to image to video."""


@app.command()
def generate(
    output: Annotated[Path, typer.Option("--output", "-o", help="The mp4 to write.")],
    prompt: Annotated[
        str | None, typer.Argument(help="What the clip shows, in the words of the lab world.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="Start from this picture instead of drawing one.")
    ] = None,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Make the whole clip from PROMPT, without a picture first.")
    ] = False,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = LAB.sampler.num_inference_steps,
    frames: Annotated[int, typer.Option(help="Frames, 4k+1.")] = LAB.video.num_frames,
    seconds: Annotated[
        float | None, typer.Option(help="Make a long video of so many seconds, window by window.")
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Frames of a window of a long video, 4k+1; 33 unless given.")
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(help="Latent frames that windows share; 1 unless given.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="Instead of PROMPT, prompts by second: '0:a small red ring … 20:a large blue star …'."
        ),
    ] = None,
    chaining: Annotated[
        Chaining | None,
        typer.Option(help="How windows are joined: in latent space unless given, or by the last frame."),
    ] = None,
    anchor: Annotated[
        bool | None, typer.Option(help="Show every window the first frame; yes for chaining in latent space.")
    ] = None,
    history_noise: Annotated[
        float | None, typer.Option(help="Noise on what a window is shown of its predecessor, 0 to 1.")
    ] = None,
    match_statistics: Annotated[
        bool | None, typer.Option(help="Give every window the latent statistics of the first.")
    ] = None,
    cross_fade: Annotated[
        int | None, typer.Option(help="Of the shared latent frames, how many are made again and blended.")
    ] = None,
    fps: Annotated[float, typer.Option(help="Frames per second of the file.")] = LAB.video.fps,
    seed: Annotated[int, typer.Option(help="Same seed, same machine, same clip.")] = 0,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale; 1 is off. Unless given, what suits the model.")
    ] = None,
    image_guidance: Annotated[
        float | None, typer.Option(help="Guidance scale of the first picture; as the video's unless given.")
    ] = None,
    shift: Annotated[float | None, typer.Option(help="Shift of the denoising times.")] = None,
    model: Annotated[str, typer.Option(help="A preset, a folder, or a hub repository.")] = LAB.name,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, …; the best there is by default.")
    ] = None,
    precision: Annotated[Precision, typer.Option(help="Type of the weights.")] = Precision.float32,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Write a clip of PROMPT, and print what each stage took. A long video plays while it is written."""
    arguments.check_num_inference_steps(steps)
    arguments.check_num_frames(frames)
    arguments.check_fps(fps)
    against_drift = {
        "chaining": None if chaining is None else chaining.value,
        "anchor": anchor,
        "history_noise": history_noise,
        "match_statistics": match_statistics,
        "cross_fade": cross_fade,
    }
    plan, schedule = what_to_make(prompt, seconds, window, overlap, prompts, against_drift)
    if plan is not None and (fps, frames) != (FPS, LAB.video.num_frames):
        raise InputError(f"--seconds makes {FPS} frames a second: leave --fps and --frames out")
    for option, value in (("--image", image), ("--seconds", seconds)):
        if at_once and value is not None:
            raise InputError(f"--at-once makes one clip from its prompt alone: leave {option} {value} out")
    arguments.check_seed(seed)
    arguments.check_shift(shift)
    if guidance is not None:
        arguments.check_guidance_scale(guidance)
    if image_guidance is not None:
        arguments.check_guidance_scale(image_guidance, "image_guidance_scale")
    if output.suffix.lower() != ".mp4":
        raise InputError(f"output {str(output)!r} must end in .mp4")
    video.check_writable(output)
    picture = None if image is None else video.read_image(image)
    folder = weights_folder.resolve(model)
    for _, text in schedule:
        arguments.check_prompt(weights_folder.tokenizer(folder), text)

    clock = stages.StageClock()
    with notices.status("loading"), clock("load"):
        pipe = load(folder, device, precision)
    if pipe.device.type == "cuda":
        import torch

        clock.synchronize = torch.cuda.synchronize

    optional = {"guidance_scale": guidance, "image_guidance_scale": image_guidance, "shift": shift}
    options: dict[str, Any] = {"image": picture, "num_inference_steps": steps} | {
        name: value for name, value in optional.items() if value is not None
    }
    if plan is not None:
        options |= {name: value for name, value in against_drift.items() if value is not None}
        write_long(pipe, clock, plan, output, prompt=schedule, seed=seed, **options)
    else:
        stages_left = 3 + steps if at_once else 4 + steps + (picture is None)
        with progress(clock, stages_left) as hook:
            options |= {"prompt": schedule[0][1], "num_frames": frames, "factorised": not at_once}
            clip = run(pipe, hook, seed=seed, **options)
            with hook(stages.FILE_ENCODE):
                video.write_video(output, clip, fps)

    made = frames if plan is None else plan.frames
    report = facts(clock, made / fps) | {
        "output": str(output),
        "prompt": prompt if prompts is None else prompts,
        "seed": seed,
        "num_frames": made,
        "fps": fps,
        "num_inference_steps": steps,
        "device": str(pipe.device),
        "precision": precision.value,
        "weights": weights_folder.fingerprint(folder),
    }
    if as_json:
        console.out(json.dumps(report, indent=2), highlight=False)
    else:
        show(report)


@app.command()
def sparsify(
    sparsity: Annotated[
        str,
        typer.Option(
            help="What to do, in order: structured-0.5, structured-0.25-0.75 (heads, then hidden units), blocks-0.25, "
            "int8, structured-0.5+int8."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to write; its name is the model's.")
    ],
    model: Annotated[str, typer.Option(help="A preset, a folder, or a hub repository.")] = LAB.name,
    criterion: Annotated[
        Criterion,
        typer.Option(help="What makes a part important; all but magnitude look at training scenes."),
    ] = Criterion.magnitude,
    refit: Annotated[
        bool, typer.Option("--refit", help="Solve what is left of 'structured' anew, on training scenes.")
    ] = False,
) -> None:
    """Write MODEL pruned or quantised as one sealed checkpoint. Quality is not recovered by it: training is."""
    ways = sparsify_package.parse(sparsity, criterion.value, refit)
    weights_folder.resolve(model)
    with notices.status("loading"):
        from magic141.sparsify import checkpoint
        from magic141.train import calibrate
    checkpoint.check_output(output)
    checkpoint.check_ways(sparsity, ways)
    found = checkpoint.write(model, sparsity, ways, output, calibrate.losses)
    share = found["after"] / found["before"]
    console.print(
        f"{output}: the transformer's parameters take {found['after']:,} bytes, {share:.2f} of {found['before']:,}",
        highlight=False,
        soft_wrap=True,
    )


@weights_app.command()
def verify(
    model: Annotated[str, typer.Argument(help="A preset, a folder, or a hub repository.")] = LAB.name,
) -> None:
    """Check every sealed file of MODEL against its sha256."""
    folder = weights_folder.resolve(model)
    sums = weights_folder.verify(folder)
    console.print(f"{folder}: {len(sums)} files are as sealed", highlight=False, soft_wrap=True)
    console.print(f"fingerprint {weights_folder.fingerprint(folder)}", highlight=False, soft_wrap=True)


@weights_app.command()
def seal(folder: Annotated[Path, typer.Argument(help="A folder that a pipeline saved.")]) -> None:
    """Record the sha256 of every file in FOLDER, as the last step before weights ship."""
    sums = weights_folder.seal(folder)
    console.print(f"{folder}: sealed {len(sums)} files", highlight=False, soft_wrap=True)


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
    try:
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device {target!r} cannot be used ({reason}): try cpu, or leave --device out"
        ) from error
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    pipe = Magic141Pipeline.from_pretrained(folder, dtype=getattr(torch, precision.value)).to(target)
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


if __name__ == "__main__":
    app(prog_name="python -m magic141")
