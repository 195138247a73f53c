"""The command line of magic141: `generate` a clip, and check or seal weights.

Arguments are checked before PyTorch is imported, and so is `--help` written.
"""

import json
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from magic141 import arguments, stages, video
from magic141 import sparsify as sparsify_package
from magic141 import weights as weights_folder
from magic141.command import (
    Precision,
    console,
    facts,
    load,
    notices,
    progress,
    run,
    show,
    warn,
    what_to_make,
    write_long,
)
from magic141.errors import InputError, Magic141Error
from magic141.longvideo_plan import FPS
from magic141.presets import LAB
from magic141.terminal import say_what_it_can


class Criterion(StrEnum):
    magnitude = "magnitude"
    activation = "activation"
    taylor = "taylor"


class Door(typer.core.TyperGroup):
    """Prints the errors that this package raises on purpose, without a traceback, and exits with code 2."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        say_what_it_can()
        return super().main(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Magic141Error as error:
            notices.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=Door,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
weights_app = typer.Typer(no_args_is_help=True, help="Check or seal a folder of weights.")
app.add_typer(weights_app, name="weights")


class Solver(StrEnum):
    euler = "euler"
    unipc = "unipc"


class Chaining(StrEnum):
    latent = "latent"
    frame = "frame"


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
    solver: Annotated[
        Solver | None,
        typer.Option(
            help="What makes the steps: euler, or unipc, of second order; unless given, the model's own."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="A preset, a folder, or a hub repository.")] = LAB.name,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, …; the best there is by default.")
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="Of transformer and text encoder; the VAE: float32.")
    ] = Precision.float32,
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
    tokenizer, shipped = weights_folder.tokenizer(folder), folder.parent == weights_folder.SHIPPED
    for _, text in schedule:
        arguments.check_prompt(tokenizer, text)
        if shipped and (words := arguments.untaught(tokenizer, text)):
            warn(
                f"{model} was never taught {', '.join(map(repr, words))}, and may make noise of such prompts: "
                "leave them out"
            )

    clock = stages.StageClock()
    with notices.status("loading"), clock("load"):
        pipe = load(folder, device, precision)
    if solver is not None:
        from magic141.solvers import with_solver

        pipe.scheduler = with_solver(solver.value, pipe.scheduler)
    if pipe.device.type == "cuda":
        import torch

        clock.synchronize = partial(torch.cuda.synchronize, pipe.device)

    optional = {"guidance_scale": guidance, "image_guidance_scale": image_guidance, "shift": shift}
    options: dict[str, Any] = {"image": picture, "num_inference_steps": steps} | {
        name: value for name, value in optional.items() if value is not None
    }
    if plan is not None:
        options |= {name: value for name, value in against_drift.items() if value is not None}
        write_long(pipe, clock, plan, output, prompt=schedule, seed=seed, **options)
    else:
        stages_left = 3 + steps if at_once else 4 if frames == 1 else 4 + steps + (picture is None)
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
    precision: Annotated[
        Precision, typer.Option(help="Of the transformer; what is quantised computes in it alone.")
    ] = Precision.float32,
) -> None:
    """Write MODEL pruned or quantised as one sealed checkpoint. Quality is not recovered by it: training is."""
    ways = sparsify_package.parse(sparsity, criterion.value, refit)
    kinds = {way.kind for way in ways}
    if refit and "structured" not in kinds:
        raise InputError(f"--refit is for 'structured', and --sparsity is {sparsity}: leave it out")
    if criterion is not Criterion.magnitude and not kinds & set(sparsify_package.PRUNED):
        raise InputError(
            f"--criterion {criterion.value} is for {' and '.join(sparsify_package.PRUNED)}, and --sparsity is "
            f"{sparsity}: leave it out"
        )
    weights_folder.resolve(model)
    with notices.status("loading"):
        from magic141.sparsify import checkpoint
        from magic141.train import calibrate
    checkpoint.check_output(output)
    checkpoint.check_ways(sparsity, ways)
    found = checkpoint.write(model, sparsity, ways, output, calibrate.losses, precision.value)
    share = found.after / found.before
    console.print(
        f"{output}: in {precision.value} the transformer's parameters take {found.after:,} bytes, {share:.2f} of "
        f"{found.before:,}; its file has {found.file:,}",
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


if __name__ == "__main__":
    app(prog_name="python -m magic141")
