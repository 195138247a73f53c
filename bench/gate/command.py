"""What `bench gate` does between its arguments and its exit code."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from bench import folders
from bench.errors import RunError
from bench.gate import baseline, config, report
from bench.gate.run import Question, default_journal, run
from bench.gate.verdicts import EXIT_CODES
from bench.records import Store

INTERRUPTED = 130


@dataclass(frozen=True)
class Options:
    base: str
    head: str
    gates: Path
    to_json: Path | None
    to_markdown: Path | None
    to_junit: Path | None
    base_records: Path | None
    record: Path | None
    resume: Path | None
    out: Path


def execute(options: Options, console: Console, command: str) -> int:
    """Runs a gate, writes what was asked for, returns the exit code. Raises SuiteError, RunError, RecordError."""
    gates = config.read(options.gates)
    if options.record is not None and options.base_records is not None:
        raise RunError("--record and --base-records exclude each other: a stored base would be stored again")
    if options.resume is not None and not options.resume.is_file():
        raise RunError(f"there is no journal {options.resume} to go on from")
    folders.check_writable(options.out)
    for option, path in (
        ("--json", options.to_json),
        ("--markdown", options.to_markdown),
        ("--junit", options.to_junit),
        ("--record", options.record),
    ):
        if path is not None:
            check_file(path, option)
    if options.record is not None:
        Store.at(options.record).records()  # whether it is a file of records at all
    journal = options.resume or default_journal(options.out / "gates")
    stored = (
        None if options.base_records is None else baseline.Baseline.read(options.base_records, options.base)
    )
    with console.status("a gate takes a minute or two") as status:
        question = Question(
            base=options.base,
            head=options.head,
            gates=gates,
            journal=journal,
            baseline=stored,
            complete=options.record is not None,
            say=lambda text: status.update(Text(text)),
        )
        try:
            with ended_as_interrupted():
                result = run(question)
        except KeyboardInterrupt:
            said = "interrupted before anything was measured"
            if journal.exists():
                said = f"interrupted: the same command with --resume {journal} measures what is left"
            console.print(said, soft_wrap=True, markup=False)
            return INTERRUPTED
    report.write(result, options.to_json, options.to_markdown, options.to_junit)
    if options.record is not None and result.verdict != "INVALID":
        options.record.parent.mkdir(parents=True, exist_ok=True)
        store = Store.at(options.record)
        store.repair()
        for record in baseline.records(result, gates, command):
            store.append(record)
    report.show(console, result)
    return EXIT_CODES[result.verdict]


def check_file(path: Path, option: str) -> None:
    """Raises RunError where no file can be written at `path`."""
    if path.is_dir():
        raise RunError(f"{option} {path} is a folder: name a file in it")
    folders.check_writable(path.parent, option)


@contextlib.contextmanager
def ended_as_interrupted() -> Iterator[None]:
    """Told to end, as a cancelled CI job is, this process would go at once and leave its folder of trees behind."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
