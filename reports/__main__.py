"""python -m reports: from recorded runs to a page to read."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Reports from benchmark runs.",
)


@app.callback()
def _door() -> None:
    """Reports from benchmark runs."""


@app.command("build")
def build_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or results/latest.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where the HTML goes.")],
) -> None:
    """Build one self-contained HTML file from one or several runs, finished or not."""
    from reports.build import build
    from reports.load import ReportError

    try:
        path = build(runs, output)
    except ReportError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    Console().print(
        f"{path} ({path.stat().st_size / 1e6:.2f} MB)", markup=False, highlight=False, soft_wrap=True
    )


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):  # print `?` for what the terminal's encoding lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app(prog_name="python -m reports")
