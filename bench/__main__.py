"""`python -m bench`: run a suite, look at runs, compare them."""

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
    out: Out = RESULTS,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="WHAT", help="SYSTEM, KNOB=VALUE or a cell id; A,B means both."),
    ] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Leave report.html out.")] = False,
) -> None:
    """Answer every cell of a suite, each in a fresh process, and rebuild the report after each."""
    with typed_errors():
        from bench.command import Command

        command = Command.make(suite, resume, out, only or [], report=not no_report)
        console.print(command.plan())
        console.print(command.summary(), markup=False, highlight=False, soft_wrap=True)
        if not dry_run:
            raise typer.Exit(command.execute(console, shlex.join(["python", "-m", "bench", *sys.argv[1:]])))


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
        from bench.command import one_cell
        from bench.records import Store, latest
        from bench.runner import locate

        records = latest(Store(locate(name, out)).records())
        if cell is None:
            console.print(tables.rows(list(records.values())))
        else:
            console.print_json(one_cell(records, cell).model_dump_json())


@app.command()
def diff(first: RunName, second: RunName, out: Out = RESULTS) -> None:
    """Compare two runs cell by cell: scores by paired samples, refused where protocols differ."""
    with typed_errors():
        from bench import tables
        from bench.compare import compare
        from bench.errors import RunError
        from bench.records import Store, latest
        from bench.runner import locate

        folders = locate(first, out), locate(second, out)
        records = [latest(Store(folder).records()) for folder in folders]
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
    app(prog_name="python -m bench")
