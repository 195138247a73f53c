"""`python -m evals`: score videos and compare the scores; train and examine the judge of the lab world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evals import clip_world
from evals.catalogue import STATISTICS, WEIGHTS, check_metrics
from magic141.errors import InputError, Magic141Error
from magic141.terminal import say_what_it_can

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
judge_app = typer.Typer(no_args_is_help=True, help="The network that judges clips of the lab world.")
app.add_typer(judge_app, name="judge")
clip_world_app = typer.Typer(no_args_is_help=True, help="The CLIP model that judges clips of the lab world.")
app.add_typer(clip_world_app, name="clip-world")
console = Console()

Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]


def _use(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


@judge_app.command("train")
def judge_train(
    samples: Annotated[int, typer.Option(min=1, help="Clips to learn from, each seen once.")] = 64_000,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint and the loss curve.")] = Path(
        "runs/judge"
    ),
    weights: Annotated[Path, typer.Option(help="Where the finished weights and their card go.")] = WEIGHTS,
    budget: Annotated[float | None, typer.Option(help="Stop (resumably) after so many minutes.")] = None,
    threads: Threads = 1,
) -> None:
    """Train the judge on truth; run the same command again to resume."""
    from evals.judge_training import JudgeTraining, train

    _use(threads)
    if train(JudgeTraining(samples=samples, seed=seed), out, output=weights, budget_minutes=budget):
        console.print(f"{weights} written; next: python -m evals judge exam, then python -m evals stats")
    else:
        console.print("budget spent; the same command resumes")


@judge_app.command("exam")
def judge_exam(
    clips: Annotated[int, typer.Option(min=64, help="Truth clips that the judge never saw.")] = 4096,
    threads: Threads = 1,
) -> None:
    """Accuracy of the judge on truth, written into its card. Exit code 1 where an attribute stays below 98 %."""
    from evals.judge_exam import record_exam

    _use(threads)
    report = record_exam(clips)
    table = Table("attribute", "accuracy", "95 % interval", "n")
    for name, row in report.items():
        if "accuracy" in row:
            interval = f"{row['low']:.4f} to {row['high']:.4f}"
            table.add_row(name, f"{row['accuracy']:.4f}", interval, str(row["n"]))
    console.print(table)
    console.print(f"position error {report['track']['rmse_px']} px (root mean square)")
    if any(row.get("accuracy", 1.0) < 0.98 for row in report.values()):
        raise typer.Exit(1)


@clip_world_app.command("train")
def clip_world_train(
    samples: Annotated[
        int, typer.Option(min=64, help="Frames to learn from, each of another scene.")
    ] = 64_000,
    seed: int = 141,
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint and the loss curve.")] = Path(
        "runs/clip-world"
    ),
    weights: Annotated[
        Path, typer.Option(help="The finished folder, for open_clip; replaced whole.")
    ] = clip_world.FOLDER,
    budget: Annotated[float | None, typer.Option(help="Stop (resumably) after so many minutes.")] = None,
    threads: Threads = 1,
) -> None:
    """Train the CLIP judge on frames and captions; run the same command again to resume."""
    from evals.clip_world_training import ClipWorldTraining, train

    _use(threads)
    if train(ClipWorldTraining(samples=samples, seed=seed), out, output=weights, budget_minutes=budget):
        console.print(f"{weights} written; next: python -m evals clip-world exam")
    else:
        console.print("budget spent; the same command resumes")


@clip_world_app.command("exam")
def clip_world_exam(
    clips: Annotated[int, typer.Option(min=64, help="Truth clips that the judge never saw.")] = 1024,
    threads: Threads = 1,
) -> None:
    """What the CLIP judge finds among truth clips, written into its card. Exit code 1 where that is below 95 %."""
    from evals.clip_world_exam import CANDIDATES, REQUIRED, record_exam

    _use(threads)
    report = record_exam(clips)
    table = Table("retrieval", "accuracy", "95 % interval", "n", "chance")
    for name, row in report.items():
        interval = f"{row['low']:.4f} to {row['high']:.4f}"
        table.add_row(name, f"{row['accuracy']:.4f}", interval, str(row["n"]), f"{row['chance']:.4f}")
    console.print(table)
    if any(
        row["accuracy"] < REQUIRED for name, row in report.items() if name.endswith(f"among {CANDIDATES}")
    ):
        raise typer.Exit(1)


@app.command()
def stats(
    clips: Annotated[int, typer.Option(min=20_000, help="Reference clips.")] = 20_480,
    floor_clips: Annotated[
        int, typer.Option(min=1024, help="Further clips, for truth against truth.")
    ] = 8192,
    threads: Threads = 1,
) -> None:
    """Store the statistics of truth that fvd-world and kvd-world compare with."""
    from evals.truth import make_truth

    _use(threads)
    truth = make_truth(clips, floor_clips=floor_clips)
    console.print(f"{STATISTICS}: {truth.moments.n} clips, {STATISTICS.stat().st_size / 1000:.0f} kB")


@app.command()
def calibrate(
    clips: Annotated[int, typer.Option(min=8, help="Scenes.")] = 256,
    metrics: Annotated[str | None, typer.Option(help="Names, separated by commas; by default all.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write the scores here.")] = None,
    threads: Threads = 1,
) -> None:
    """Score clips whose flaws are known (truth, still pictures, noise, half speed, blur, …): what scores can tell."""
    names = check_metrics(metrics.split(",") if metrics else None)
    from dataclasses import asdict

    from evals import command, lab
    from evals.judge_exam import FIRST, known_clips
    from evals.results import check_writable
    from magic141.data.world import World

    if json_out is not None:
        check_writable(json_out)
    _use(threads)
    scenes = World().scenes("test", FIRST + 100_000, clips)
    given = None
    found: dict[str, dict[str, object]] = {}
    values: dict[str, dict[str, float]] = {}
    for row, frames in known_clips(scenes):
        given = frames[:, 0] if given is None else given
        scores = lab.score(frames, scenes, given, metrics=names).aggregate
        found[row] = {name: asdict(value) for name, value in scores.items()}
        values[row] = {name: value.value for name, value in scores.items()}
    command.show_calibration(names, values, console)
    if json_out:
        json_out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


@app.command()
def score(
    paths: Annotated[list[Path], typer.Argument(help="Video files, and folders of videos or of images.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The JSON file to write.")],
    csv_output: Annotated[Path | None, typer.Option("--csv", help="Also write a line a clip here.")] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Names, separated by commas; by default all that need no weights.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="CSV or JSON lines: file, prompt and, if there is one, seed.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of first frames, named like the clips; for clip-image.")
    ] = None,
    reference: Annotated[Path | None, typer.Option(help="Folder of real clips; for fvd.")] = None,
    fvd_protocol: Annotated[str, typer.Option(help="styleganv, videogpt or tf.")] = "styleganv",
    fvd_frames: Annotated[int, typer.Option(min=10, help="First frames of each clip that fvd sees.")] = 16,
    clip_model: Annotated[
        str, typer.Option(help="open_clip's name, local-dir:FOLDER, or world: the lab's own.")
    ] = "ViT-B-32",
    clip_weights: Annotated[str | None, typer.Option(help="open_clip's tag, or a checkpoint file.")] = None,
    weights: Annotated[Path | None, typer.Option(help="The I3D file, for fvd.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, … for clip and fvd.")] = "cpu",
) -> None:
    """Score any videos. Exit code 1 where a clip could not be scored whole: the file says which, and why."""
    from evals import command, results

    request = command.request(
        metrics=metrics,
        prompts=prompts,
        images=images,
        reference=reference,
        fvd_protocol=fvd_protocol,
        fvd_frames=fvd_frames,
        clip_model=clip_model,
        clip_weights=clip_weights,
        weights=weights,
        device=device,
        paths=paths,
    )
    scores = command.score(paths, request, [output, csv_output])
    results.write(scores, output, csv_output)
    command.show(scores, console)
    console.print(f"{output} written", highlight=False, soft_wrap=True)
    if scores.failed or scores.omitted or scores.warnings or any(clip.reason for clip in scores.clips):
        raise typer.Exit(1)


@app.command()
def compare(first: Path, second: Path) -> None:
    """Compare two score files clip by clip: SECOND against FIRST, with paired intervals."""
    from evals import command, results
    from evals.compare import compare as compare_files

    command.show_comparison(list(compare_files(results.read(first), results.read(second))), console)


@app.command("drift")
def drift_command(
    paths: Annotated[list[Path], typer.Argument(help="Long videos.")],
    window: Annotated[int, typer.Option(min=2, help="Frames that the generator made at a time.")],
    stride: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="New frames a window, all of them unless given; 32 of 33 with `generate`'s overlap of 1.",
        ),
    ] = None,
) -> None:
    """How long videos drift, window by window: slopes with intervals, and the error at the seams."""
    from evals import clips, command
    from evals.drift import drift, table

    failed = 0
    for source in clips.find(paths):
        try:
            found = drift(clips.frames(source), window=window, stride=stride, fps=clips.fps(source))
        except InputError as error:
            console.print(f"{source.name}: failed: {error}", markup=False, highlight=False, soft_wrap=True)
            failed += 1
            continue
        command.show_drift(source.name, table(found), found.notes, console)
    raise typer.Exit(int(failed > 0))


@app.command()
def exam(
    clips: Annotated[int, typer.Option(min=8, help="Truth clips; 48 and more for fvd-world.")] = 64,
    quick: Annotated[bool, typer.Option("--quick", help="A dozen clips instead.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write all answers as JSON.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw them as a picture.")] = None,
    threads: Threads = 1,
) -> None:
    """Which scores deserve belief? Harm truth clips by known amounts and see which scores notice."""
    from dataclasses import asdict

    from evals import command
    from evals.exam import check_format, examine, plot
    from evals.results import check_writable

    for path in (output, figure):
        if path is not None:
            check_writable(path)
    if figure is not None:
        check_format(figure)
    _use(threads)
    answers = examine(12 if quick else clips)
    command.show_exam(answers, console)
    if output is not None:
        rows = [asdict(answer) | {"verdict": answer.verdict} for answer in answers]
        output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if figure is not None:
        plot(answers, figure)


def main() -> None:
    """Run the door; errors that a caller can mend are printed without a traceback, exit code 2."""
    say_what_it_can()
    try:
        app()
    except Magic141Error as error:
        message = f"[red]error:[/red] {escape(str(error))}"
        Console(stderr=True).print(message, highlight=False, soft_wrap=True)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
