"""What the `score` and `compare` commands do with their arguments, and how they print what came out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evals import clips
from evals.clips import Source
from evals.compare import Comparison
from evals.exam import Answer
from evals.prompts import match, read_prompts
from evals.results import ScoreFile, check_writable
from evals.scoring import Frame, FvdRequest, Request, check_names, score_clips
from magic141.device import check_device
from magic141.errors import InputError


@dataclass(frozen=True)
class Plan:
    """The clips, and what makes the request to score them: it loads networks, which may take long."""

    sources: Sequence[Source]
    load: Callable[[], Request]


def request(
    *,
    paths: Sequence[Path],
    metrics: str | None,
    prompts: Path | None,
    images: Path | None,
    reference: Path | None,
    fvd_protocol: str,
    fvd_frames: int,
    clip_model: str,
    clip_weights: str | None,
    weights: Path | None,
    device: str,
) -> Plan:
    """Everything that scoring needs, checked before a network is loaded or a clip decoded.

    Raises InputError.
    """
    wanted = check_names(metrics.split(",") if metrics else None)
    real: Sequence[Source] = ()
    if wanted.fvd:
        if reference is None:
            raise InputError("fvd is a distance between two sets: give --reference a folder of real clips")
        from evals.fvd import PROTOCOLS

        if fvd_protocol not in PROTOCOLS:
            raise InputError(f"--fvd-protocol {fvd_protocol!r} is unknown; use one of {', '.join(PROTOCOLS)}")
        real = clips.find([reference])
    for metric, option, given in (
        ("clip-text", "--prompts", prompts),
        ("clip-image", "--images", images),
    ):
        if metric in wanted.clip and given is None:
            raise InputError(f"{metric} compares clips with something else: give {option}, or leave it out")
    if wanted.clip or wanted.fvd or wanted.vbench:
        check_device(device)
    sources = clips.find(paths)
    names = [source.name for source in sources]
    cheap = Request(
        measures=wanted.measures,
        origins=match(names, read_prompts(prompts)) if prompts else {},
        prompted=prompts is not None,
        images=_images(images, names) if images else {},
    )

    def load() -> Request:
        full = cheap
        if wanted.clip:
            from evals.clip_scores import ClipJudge

            judge = ClipJudge.load(clip_model, clip_weights, device)
            names = [judge.named(metric) for metric in wanted.clip]
            full = replace(full, clip_judge=judge, clip_metrics=names)
        if wanted.fvd:
            from evals.fvd import PROTOCOLS, find_extractor

            extractor = find_extractor(weights, device)
            full = replace(full, fvd=FvdRequest(PROTOCOLS[fvd_protocol], extractor, real, fvd_frames))
        if wanted.vbench:
            from evals import vbench_scores

            networks, omitted = vbench_scores.load(wanted.vbench, device)
            full = replace(full, networks=networks, omitted=omitted)
        return full

    return Plan(sources, load)


def score(paths: Sequence[Path], plan: Plan, outputs: Sequence[Path | None]) -> ScoreFile:
    """Score the clips that were found in `paths`, once it is known that the results can be written.

    Raises InputError, WeightsMissing or WeightsCorrupt.
    """
    named = [output for output in outputs if output is not None]
    for output in named:
        check_writable(output)
    if len({output.resolve() for output in named}) < len(named):
        raise InputError(f"the JSON and the table would both be {str(named[0])!r}: name two files")
    shown = " ".join(path.name for path in paths)  # where they lie on this machine is nobody's business
    return score_clips(plan.sources, plan.load(), f"python -m evals score {shown}")


def show(scores: ScoreFile, console: Console) -> None:
    """Print the aggregate, flags, and what went wrong."""
    table = Table("score", "value", "95 % interval", "n", "better", box=None, header_style="bold")
    for name, found in scores.aggregate.items():
        interval = "" if found.low is None else f"{found.low:.4g} to {found.high:.4g}"
        table.add_row(name, f"{found.value:.4g} {found.unit}", interval, str(found.n), found.better)
    console.print(table)
    raised = Counter(name for clip in scores.clips for name in {flag.name for flag in clip.flags})
    for name, count in raised.items():
        console.print(f"[yellow]{count} of {len(scores.clips)} clips flagged {name}[/yellow]")
    for clip in scores.clips:
        if clip.reason:
            console.print(f"{clip.name}: {clip.outcome}: {clip.reason}", highlight=False, markup=False)
    for name, reason in scores.omitted.items():
        console.print(f"no {name}: {reason}", highlight=False, markup=False)
    for warning in scores.warnings:
        console.print(warning, highlight=False, markup=False)


def show_comparison(rows: Sequence[Comparison], console: Console) -> None:
    """Print one line a metric."""
    table = Table("score", "first", "second", "paired difference", "n", "verdict", box=None)
    for row in rows:
        text, count = "", ""
        if row.difference is not None:
            value, low, high, n = row.difference
            text, count = f"{value:+.4g} [{low:+.4g}, {high:+.4g}]", str(n)
        table.add_row(
            row.metric, f"{row.first.value:.4g}", f"{row.second.value:.4g}", text, count, row.verdict
        )
    console.print(table)


def show_exam(answers: Sequence[Answer], console: Console) -> None:
    """Print a line a score: its verdict on each corruption."""
    harms = list(dict.fromkeys(answer.corruption for answer in answers))
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("score", no_wrap=True)  # whose ends tell them apart
    for harm in harms:
        table.add_column(harm)
    colours = {"sees": "green", "moves": "cyan", "blind": "dim", "fooled": "red"}
    rows: dict[str, dict[str, str]] = {}
    for answer in answers:
        text = f"[{colours[answer.verdict]}]{answer.verdict}[/]"
        rows.setdefault(answer.score, {})[answer.corruption] = text
    for score_name, cells in rows.items():
        table.add_row(score_name, *(cells.get(harm, "-") for harm in harms))
    console.print(table)


def show_calibration(
    names: Sequence[str], values: Mapping[str, Mapping[str, float]], console: Console
) -> None:
    """Print a line a score: its value on each of the known clips in `values`, of which it may lack some."""
    # Eighty columns hold all names, and all digits that tell something.
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("score", no_wrap=True)
    for known in values:
        table.add_column(known, justify="right")
    for name in names:
        table.add_row(name, *(_digits(scores.get(name)) for scores in values.values()))
    console.print(table)


def _digits(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def show_drift(
    name: str, rows: Sequence[dict[str, str | float | None]], notes: Sequence[str], console: Console
) -> None:
    """Print one video's slopes and seams."""
    table = Table(
        "", "score", "first", "last", "slope or seam", "95 % interval", "unit", box=None, title=escape(name)
    )
    for row in rows:
        numbers = {key: f"{value:.4g}" for key, value in row.items() if isinstance(value, float)}
        interval = f"{numbers['low']} to {numbers['high']}" if "low" in numbers and "high" in numbers else ""
        cells = [numbers.get(key, "") for key in ("first", "last", "value")]
        table.add_row(str(row["what"]), str(row["name"]), *cells, interval, str(row["unit"] or ""))
    console.print(table)
    for note in notes:
        console.print(note, highlight=False, markup=False)


def _images(folder: Path, names: Sequence[str]) -> dict[str, Frame]:
    """Clip name -> picture, by the stem of the file."""
    if not folder.is_dir():
        raise InputError(f"--images {str(folder)!r} is no folder; give one with a picture for each clip")
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in clips.IMAGES}
    found = {}
    for name in names:
        path = files.get(Path(name).stem)
        if path is None:
            continue
        try:
            found[name] = clips.read_image(path)
        except InputError as error:
            raise InputError(f"{str(path)!r} cannot be used: {error}") from error
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError(f"{str(path)!r} cannot be read as an image; replace it") from error
    if not found:
        raise InputError(f"no picture in {str(folder)!r} is named like a clip; name clip.mp4's clip.png")
    return found
