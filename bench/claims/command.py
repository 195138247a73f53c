"""What `bench claims` does between its arguments and its exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench import trials
from bench.claims import document, published, registry, runs, tables
from bench.claims.driver import Driver
from bench.folders import exclusive
from bench.records import write_atomically

DOCUMENT = Path("docs/claims.md")


@dataclass(frozen=True)
class Options:
    quick: bool
    only: Sequence[str]
    dry_run: bool
    store: Path
    afresh: bool
    publish: bool
    doc: Path | None


def execute(options: Options, console: Console) -> int:
    """Runs what is missing, writes the document, returns the exit code: 1 where an item failed.

    Raises SuiteError for an unknown claim, RunError for a store that cannot be read or is in use.
    """
    scale = runs.QUICK if options.quick else runs.FULL
    experiments = registry.chosen(scale, options.only)

    def driver_of(known: Path | None) -> Driver:
        return Driver(experiments, scale, options.store, trials.ask, console.print, known=known)

    with exclusive(options.store):
        driver = driver_of(None if options.afresh else published.FOLDER)
        console.print(tables.plan(driver.items, driver.left()))
        failed = 0
        try:
            if not options.dry_run:
                failed = driver.run()
        finally:
            if options.publish:
                added = published.publish(driver.answered(), published.FOLDER)
                console.print(f"{added} answers published")
                if not options.quick:
                    # Of all that is published: a driver that asks afresh knows its own answers alone.
                    published.publish_table(driver_of(published.FOLDER).whole(), published.FOLDER)
            found = driver.table()
            target = _target(options, driver)
            if target is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(target, document.markdown(experiments, scale, found, driver.items))
    console.print(tables.answers(found))
    if target is not None:
        console.print(f"{target} written; what is done: {options.store}", soft_wrap=True, highlight=False)
    return 1 if failed else 0


def _target(options: Options, driver: Driver) -> Path | None:
    """Half of an answer must not replace a whole one that is committed. A dry run writes only what it is told to."""
    if options.doc or options.dry_run:
        return options.doc
    whole = not (options.quick or options.only)
    return DOCUMENT if whole and not driver.left() else options.store / "claims.md"
