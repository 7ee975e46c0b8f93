"""Harness for mistakes on the command line.

A case is an invalid command line, or one that may be invalid.  It passes if the command ends in time with exit code 2
and one line on stderr, and changes no file; a command that may be valid can also succeed.  Tests of damaged files are
cases with ``prepare``, checked by ``judge``.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from beeline.cli.main import run


@dataclass(frozen=True)
class Case:
    """A command line that is, or may be, invalid."""

    name: str
    argv: tuple[str, ...]  # "{}" is replaced by the directory of the case
    nonsense: bool = True  # it must be refused; otherwise it may also succeed
    prepare: Callable[[Path], None] | None = None  # writes files into the directory of the case


class Late(BaseException):
    """Raised when a case exceeds its time limit."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise Late after a number of seconds."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(case: Case, folder: Path, seconds: float = 30.0) -> str | None:
    """The fault of the command line in a case; None if it passes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if case.prepare is not None:
        case.prepare(folder)
    before = contents(folder)
    out, error = io.StringIO(), io.StringIO()
    home = os.getcwd()
    os.chdir(folder)
    try:
        with within(seconds), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            code = run([word.replace("{}", str(folder)) for word in case.argv])
    except Late:
        return f"took more than {seconds:g} s"
    except BaseException as fault:
        return f"let {type(fault).__name__} through: {fault}"
    finally:
        os.chdir(home)
    printed = error.getvalue()
    if code == 0:
        return "was accepted" if case.nonsense else None
    if code == 1:
        Path(printed.partition("with the file ")[2].partition(",")[0]).unlink(missing_ok=True)
    if code != 2:
        return f"ended with exit code {code}: {printed[:300]}"
    if not printed.startswith("error: ") or printed.count("\n") != 1:
        return f"printed more than one line: {printed[:300]!r}"
    if len(printed) < 30:
        return f"printed too little: {printed!r}"
    return None if contents(folder) == before else "left something on disk"


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Name, size and modification time of all files in a directory."""
    stats = {str(p.relative_to(folder)): p.lstat() for p in sorted(folder.rglob("*"))}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def faults(cases: Iterable[Case], folder: Path, seconds: float = 30.0) -> list[str]:
    """The faults of all cases."""
    found = ((case.name, judge(case, folder / "case", seconds)) for case in cases)
    return [f"{name}: {fault}" for name, fault in found if fault is not None]
