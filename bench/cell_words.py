"""Words of a command line that name cells and set knobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from bench.cells import Cell
from bench.errors import RunError, SuiteError, nearest
from bench.records import Knob, Record


def only_cells(cells: list[Cell], only: Sequence[str]) -> list[Cell]:
    """Cells that meet every condition of at least one `only`. Raises SuiteError for what matches nothing."""
    if not only:
        return cells
    wanted = [[_condition(term.strip(), cells) for term in terms.split(",")] for terms in only]
    chosen = [cell for cell in cells if any(all(cell.id in ids for ids in terms) for terms in wanted)]
    if not chosen:
        raise SuiteError(
            f"--only {' --only '.join(only)} leaves no cell: no cell meets all conditions of one"
        )
    return chosen


def _condition(term: str, cells: Sequence[Cell]) -> set[str]:
    """Ids of the cells that one condition names."""
    knob, separator, value = term.partition("=")
    if separator:
        known = sorted({name for cell in cells for name in cell.knobs})
        if knob not in known:
            raise SuiteError(f"--only {term}: no cell has a knob {knob!r}{nearest(knob, known)}")
        found = {cell.id for cell in cells if str(cell.knobs.get(knob)) == value}
        values = list(dict.fromkeys(str(cell.knobs[knob]) for cell in cells if knob in cell.knobs))
        hint = f"it is one of {', '.join(values)}"
    else:
        found = {
            cell.id for cell in cells if cell.system == term or (len(term) >= 4 and cell.id.startswith(term))
        }
        hint = f"no system or cell id is called so{nearest(term, {cell.system for cell in cells})}"
    if not found:
        raise SuiteError(f"--only {term}: {hint}")
    return found


def knobs(words: Sequence[str]) -> dict[str, Knob]:
    """NAME=VALUE words, values read as YAML. Raises SuiteError."""
    found: dict[str, Knob] = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not separator or not name:
            raise SuiteError(f"--knob {word}: give NAME=VALUE")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SuiteError(
                f"--knob {word}: {value!r} is no YAML value; quote it: {name}='\"…\"'"
            ) from error
    return found


def one_cell(records: Mapping[str, Record], prefix: str) -> Record:
    """The record whose cell id starts with `prefix`. Raises RunError unless there is exactly one."""
    found = [record for cell, record in records.items() if cell.startswith(prefix)]
    if len(found) != 1:
        raise RunError(f"{len(found)} cells have an id that starts with {prefix!r}{nearest(prefix, records)}")
    return found[0]
