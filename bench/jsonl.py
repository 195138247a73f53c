"""Append-only files of JSON lines that survive a kill or a full disk: at most the last line is torn, and then cut."""

from __future__ import annotations

import os
from pathlib import Path


def read(path: Path) -> list[bytes]:
    """The complete lines, for one who will append: a torn last one is cut off the file."""
    cut_torn(path)
    return lines(path)


def lines(path: Path) -> list[bytes]:
    """The complete lines; a torn last one (no newline: the writer was killed) is not there yet, and stays."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def cut_torn(path: Path) -> bool:
    """Cuts a torn last line, so that the next append starts a line of its own. True if there was one."""
    if not path.exists():
        return False
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end == len(content):
        return False
    with path.open("r+b") as file:
        file.truncate(end)
        os.fsync(file.fileno())
    return True


def append(path: Path, line: str) -> None:
    """One write, then fsync: after a return the line survives a kill of this process or the machine.

    Raises OSError where the disk refuses (it is full); the file is then as it was.
    """
    left = line.encode() + b"\n"
    with path.open("ab", buffering=0) as file:  # a buffer would be written once more when it closes
        end = file.tell()
        try:
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            os.truncate(path, end)
            raise
