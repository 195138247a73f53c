"""What the command lines ask of the terminal."""

import io
import sys


def say_what_it_can() -> None:
    """Print `?` for what the terminal's encoding lacks, where Python would end with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
