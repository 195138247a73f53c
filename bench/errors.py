"""Typed errors of the bench. `python -m bench` prints them and exits with code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from magic141.errors import InputError, Magic141Error, UnsupportedError

__all__ = ["InvalidGateError", "InvalidOutputError", "RunError", "SuiteError", "UnsupportedError", "nearest"]


class SuiteError(InputError):
    """A suite file, or what a command line asks of it, is wrong; the message names the remedy."""


class RunError(Magic141Error):
    """A run cannot be made, found or continued."""


class InvalidGateError(Magic141Error):
    """A gate cannot say anything about these trees; its verdict is INVALID, and never a pass."""


class InvalidOutputError(Magic141Error):
    """A system returned frames that are no video: the outcome is `invalid`."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the known name nearest to `name`, or nothing where none is known."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
    return f"; did you mean {match[0]!r}?" if match else ""
