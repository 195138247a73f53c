"""`python -m bench`: run a suite, look at runs, compare them; count what systems must cost."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from magic141.errors import Magic141Error
from magic141.terminal import say_what_it_can

app = typer.Typer(
    help="Sweep text-to-video systems over their knobs: latency, memory and quality, as records and a report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True)

SuiteFile = Annotated[
    Path | None, typer.Argument(metavar="SUITE.yaml", help="What to ask; see bench/suites/.")
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where runs lie.")]
NoReport = Annotated[bool, typer.Option("--no-report", help="Leave report.html out.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, its name, or latest.")]
RESULTS = Path("results")
GATES = Path(__file__).parent / "gates.yaml"


@app.command()
def run(
    suite: SuiteFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume", metavar="RUN", help="Run what RUN lacks. Without SUITE.yaml: the suite it had."
        ),
    ] = None,
    retry: Annotated[
        bool,
        typer.Option("--retry", help="With --resume: run cells again that crashed or ran out of something."),
    ] = False,
    out: Out = RESULTS,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="WHAT", help="SYSTEM, KNOB=VALUE or a cell id; A,B means both."),
    ] = None,
    no_report: NoReport = False,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Answer share I of N; `merge` joins them.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="ADDRESS", help="Use a Ray cluster; local or local:N starts one here."),
    ] = None,
) -> None:
    """Answer every cell of a suite, each in a fresh process, and rebuild the report on the way."""
    with typed_errors():
        from bench.command import Command

        command = Command.make(suite, resume, out, only or [], not no_report, shard, ray, retry)
        console.print(command.plan())
        console.print(command.summary(), markup=False, highlight=False, soft_wrap=True)
        if not dry_run:
            raise typer.Exit(command.execute(console, shlex.join(["python", "-m", "bench", *sys.argv[1:]])))


@app.command()
def merge(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folders, or names in results.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The run folder to make.")],
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Merge runs of different suites or environments, too.")
    ] = False,
    no_report: NoReport = False,
) -> None:
    """Join the shards of a suite into one run. Exits with code 1 where cells are missing."""
    with typed_errors():
        from bench import runner, shards, tables
        from bench.folders import locate

        folders = [locate(name, RESULTS) for name in runs]
        merged = shards.merge(folders, out, shlex.join(["python", "-m", "bench", *sys.argv[1:]]), mixed)
        if not no_report:
            runner.build_report([out], out / runner.REPORT, None)
        console.print(tables.merged(merged), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1 if merged.missing else 0)


@app.command()
def ls(out: Out = RESULTS) -> None:
    """List the runs in DIR."""
    with typed_errors():
        from bench import tables
        from bench.records import Manifest, RecordError, Store, latest

        found = []
        for folder in sorted(path.parent for path in out.glob("*/run.json")):
            try:
                found.append((folder, Manifest.read(folder), list(latest(Store(folder).records()).values())))
            except RecordError as error:
                errors.print(f"unreadable: {error}", markup=False, highlight=False, soft_wrap=True)
        console.print(tables.runs(found) if found else f"no runs in {out}")


@app.command()
def show(
    name: RunName = "latest",
    out: Out = RESULTS,
    cell: Annotated[
        str | None, typer.Option("--cell", metavar="ID", help="The whole record of one cell.")
    ] = None,
) -> None:
    """Print the table of a run, or one record as JSON."""
    with typed_errors():
        from bench import tables
        from bench.cell_words import one_cell
        from bench.folders import locate
        from bench.records import Store, latest

        records = latest(Store(locate(name, out)).records())
        if cell is None:
            console.print(tables.rows(list(records.values())))
        else:
            console.print_json(one_cell(records, cell).model_dump_json())


@app.command()
def diff(
    first: RunName,
    second: RunName,
    out: Out = RESULTS,
    cells: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--cells", metavar="ID ID", help="One cell of each run, instead of those that both have."
        ),
    ] = None,
) -> None:
    """Compare two runs, or two cells of one: scores by paired samples, refused where protocols differ."""
    with typed_errors():
        from bench import tables
        from bench.cell_words import one_cell
        from bench.compare import compare, pair
        from bench.errors import RunError
        from bench.folders import locate
        from bench.records import Store, latest

        folders = locate(first, out), locate(second, out)
        records = [latest(Store(folder).records()) for folder in folders]
        if cells is not None:
            chosen = [one_cell(*both) for both in zip(records, cells, strict=True)]
            console.print(tables.differences(pair(chosen[0], chosen[1], folders)))
            return
        labels = {
            cell: tables.label(record, list(records[0].values())) for cell, record in records[0].items()
        }
        found = list(compare(records[0], records[1], folders, labels))
        if not found:
            raise RunError(
                f"{first} and {second} have no cell in common: a cell is a system, its knobs, weights, prompts, "
                "seeds and protocol, so suites that differ in one of these cannot be paired"
            )
        console.print(tables.differences(found))


@app.command("gate-power")
def gate_power(
    gates: Annotated[
        int, typer.Option("--gates", metavar="N", min=1, help="Simulated gates behind each number.")
    ] = 2000,
    seed: Annotated[int, typer.Option("--seed", metavar="S", min=0, help="Of all random numbers.")] = 0,
    methods: Annotated[
        bool, typer.Option("--methods", help="Compare ways to bound a ratio instead of whole rules.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers there too.")
    ] = None,
) -> None:
    """Simulate gates on machines that drift: false alarms and power of our policy and of three others."""
    with typed_errors():
        from bench import gate_power_command

        gate_power_command.run(gates, seed, methods, json_file, console)


@app.command()
def analytic(
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the rows as JSON.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write docs/systems.md.")
    ] = None,
) -> None:
    """Say what known systems must cost: parameters, FLOPs, and the floor on named devices. Runs no model."""
    with typed_errors():
        from bench import analytic as arithmetic
        from bench import tables
        from bench.records import write_atomically

        rows = arithmetic.rows()
        if json_file is not None:
            text = json.dumps([row.model_dump(mode="json") for row in rows], indent=1, ensure_ascii=False)
            write_atomically(json_file, text + "\n")
        if markdown is not None:
            write_atomically(markdown, arithmetic.markdown(rows))
        console.print(tables.analytic(rows))


@app.command()
def check(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="package.module:Class, your system.")],
    knob: Annotated[
        list[str] | None, typer.Option("--knob", metavar="NAME=VALUE", help="Of the system; may be repeated.")
    ] = None,
) -> None:
    """Test a system against the contract of docs/your-system.md. Exits with code 1 where it is broken."""
    with typed_errors():
        from bench import tables
        from bench.cell_words import knobs
        from bench.check import check as findings

        found = list(findings(adapter, knobs(knob or [])))
        console.print(tables.contract(found))
        raise typer.Exit(0 if all(finding.passed for finding in found) else 1)


@app.command()
def reconstruct(
    model: Annotated[str, typer.Option(help="A preset, a folder, or a hub repository.")] = "lab",
    clips: Annotated[int, typer.Option(min=46, help="Of the test split.")] = 2048,
) -> None:
    """Score an autoencoder alone: unseen clips of the lab world, encoded and decoded."""
    with typed_errors():
        from bench import reconstruction

        for line in reconstruction.lines(reconstruction.examine(model, clips)):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


@app.command()
def select(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN_OR_FOLDER...", help="Training runs, pipeline folders.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where choice and answers go.")],
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps of the candidates.")] = 4,
    guidance: Annotated[float, typer.Option(help="Guidance of the candidates.")] = 1.0,
    shift: Annotated[
        float | None, typer.Option(help="Shift of the candidates; their own unless given.")
    ] = None,
    task: Annotated[
        str, typer.Option(help="As the adapter `bench.baselines.lab:Lab` calls it.")
    ] = "image to video",
    teacher: Annotated[str, typer.Option(help="The reference.")] = "lab",
    teacher_steps: Annotated[int, typer.Option(min=1, help="Its denoising steps.")] = 56,
    teacher_guidance: Annotated[float, typer.Option(help="Its guidance; 3 suits lab.")] = 3.0,
    teacher_shift: Annotated[float, typer.Option(help="Its shift; 1 suits lab.")] = 1.0,
    prompts: Annotated[int, typer.Option(min=46, help="Validation prompts for quality.")] = 256,
    spread: Annotated[int, typer.Option(min=8, help="Further ones for diversity.")] = 64,
    seeds: Annotated[int, typer.Option(min=2, help="Clips of each of those.")] = 8,
) -> None:
    """Pick the best checkpoint by quality, motion and diversity on the validation split (see bench/select.py)."""
    with typed_errors():
        from bench.select import Options, execute, setting

        student = setting(task, steps, guidance, shift)
        reference = setting(task, teacher_steps, teacher_guidance, teacher_shift) | {"model": teacher}
        execute(runs, Options(student, reference, prompts, spread, seeds), out, console)


@app.command()
def claims(
    quick: Annotated[bool, typer.Option("--quick", help="Run b2 alone, small, in 20 minutes.")] = False,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="CLAIM", help="a1, b1, …")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the items, their cost and the table as it is, and stop.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="The store; claims or claims-quick in results unless given."
        ),
    ] = None,
    afresh: Annotated[
        bool, typer.Option("--afresh", help="Ask again what the repository has answers to.")
    ] = False,
    publish: Annotated[
        bool,
        typer.Option(
            "--publish", help="Add the answers to those in the repository, which no run asks again."
        ),
    ] = False,
    doc: Annotated[
        Path | None,
        typer.Option(
            help="The document to write: docs/claims.md once all is done, and until then one in the store."
        ),
    ] = None,
) -> None:
    """Run what is missing of the paper's claims, and write their table (see docs/claims.md)."""
    with typed_errors():
        from bench.claims.command import Options, execute

        store = out or RESULTS / ("claims-quick" if quick else "claims")
        options = Options(quick, only or [], dry_run, store, afresh, publish, doc)
        raise typer.Exit(execute(options, console))


@app.command()
def gate(
    base: Annotated[
        str, typer.Option("--base", metavar="REF", help="What head is compared with: a git ref.")
    ],
    head: Annotated[
        str, typer.Option("--head", metavar="REF", help="A git ref, or worktree for the files as they are.")
    ] = "worktree",
    gates: Annotated[
        Path, typer.Option("--gates", metavar="FILE", help="What is measured, and what may change.")
    ] = GATES,
    to_json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all numbers.")] = None,
    to_markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write a comment for a pull request.")
    ] = None,
    to_junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML for a CI server.")
    ] = None,
    base_records: Annotated[
        Path | None,
        typer.Option("--base-records", metavar="FILE", help="Take base from here instead of measuring it."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", metavar="FILE", help="Append both sides' numbers, for --base-records."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="JOURNAL", help="Go on with an interrupted gate.")
    ] = None,
    out: Out = RESULTS,
) -> None:
    """Is head slower, larger or worse than base? 0 PASS, 1 FAIL, 2 wrong input, 3 INVALID, 4 INCONCLUSIVE."""
    with typed_errors():
        from bench.gate.command import Options, execute

        options = Options(
            base, head, gates, to_json, to_markdown, to_junit, base_records, record, resume, out
        )
        raise typer.Exit(execute(options, console, shlex.join(["python", "-m", "bench", *sys.argv[1:]])))


@app.command()
def schema() -> None:
    """Print the JSON Schema of suite files, for editors."""
    from bench.suite import Suite

    console.print_json(json.dumps(Suite.model_json_schema()))


@contextmanager
def typed_errors() -> Iterator[None]:
    """Prints errors that are somebody's mistake, without traceback, and exits with code 2."""
    from bench.records import RecordError

    try:
        yield
    except (Magic141Error, RecordError) as error:
        errors.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    say_what_it_can()
    app(prog_name="python -m bench")
