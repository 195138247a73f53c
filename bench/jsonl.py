"""Append-only files of JSON lines that survive a kill: at most the last line is torn, and that is cut."""

from __future__ import annotations

import os
from pathlib import Path


def read(path: Path) -> list[bytes]:
    """The complete lines; a torn last one is cut off the file, so that what is appended starts a line of its own."""
    if not path.exists():
        return []
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        with path.open("r+b") as file:
            file.truncate(end)
    return content[:end].splitlines()


def append(path: Path, line: str) -> None:
    """One write, then fsync: after a return the line survives a kill of this process or the machine."""
    with path.open("ab") as file:
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
