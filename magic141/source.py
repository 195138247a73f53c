"""The checkout that this package runs from, if it runs from one: what cards and records say of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def git(*arguments: str) -> str | None:
    """What git says in this package's own checkout; None where there is none, or no git.

    An installed package lies in no checkout of its own, whatever repository surrounds it.
    """
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def commit() -> str:
    """The commit that is checked out, or `unknown`."""
    return git("rev-parse", "HEAD") or "unknown"
