"""What all files of a run share: frozen models, the hash of a question, and writing that is never half done."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1


class RecordError(Exception):
    """A record, manifest or sidecar file cannot be read; the message names file, line and remedy."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def digest(value: object, length: int = 16) -> str:
    """First `length` hex digits of the sha256 of `value` as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def write_atomically(path: Path, text: str) -> None:
    """Writes beside `path`, then renames: a reader sees the old text or the new one, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
