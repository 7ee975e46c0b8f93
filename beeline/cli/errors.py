"""Error messages of the command line: one line on stderr, and an exit code."""

from __future__ import annotations

import shlex
import sys

LONGEST = 3000  # characters of an error message, which may quote input of any length
OUT_OF_MEMORY = "there is not enough memory ({}); reduce the batch size, the network or the data"


def fail(message: str, code: int = 2) -> int:
    """Print an error as one line on stderr; returns the exit code."""
    line = " ".join(message.split())
    print("error: " + (line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."), file=sys.stderr)
    return code


def internal_error(error: Exception, argv: list[str]) -> int:
    """Print an unexpected error as one line with the name of a file that holds the traceback."""
    from beeline.cli.console import write_traceback

    name = write_traceback(error, shlex.join(["beeline", *argv]))
    return fail(
        f"{type(error).__name__}: {error}; this is a bug in beeline, not a mistake in your input: please report it "
        f"with the file {name}, which holds the traceback",
        1,
    )
