"""Mistakes by the thousand: what a wrong command must do, and must not.

A case is a command line that is wrong, or that may be.  It is right when the command ends in time with exit code 2
and one line on stderr and nothing on disk has changed; a command that is only odd may also succeed.  Whoever reads
files adds damaged ones: a list of Case with ``prepare``, judged by ``judge``.
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
    """A command with a mistake in it."""

    name: str
    argv: tuple[str, ...]  # "{}" in it stands for the directory of the case
    nonsense: bool = True  # must be refused; otherwise it may also be carried out
    prepare: Callable[[Path], None] | None = None  # writes what is damaged into the directory of the case


class Late(BaseException):
    """A case that took longer than it may."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Stops whatever takes longer."""

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
    """What is wrong with how the command line answers a case; None where it is right."""
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
    said = error.getvalue()
    if code == 0:
        return "was accepted" if case.nonsense else None
    if code == 1:
        Path(said.partition("with the file ")[2].partition(",")[0]).unlink(missing_ok=True)
    if code != 2:
        return f"ended with exit code {code}: {said[:300]}"
    if not said.startswith("error: ") or said.count("\n") != 1:
        return f"said more than one line: {said[:300]!r}"
    if len(said) < 30:
        return f"said too little: {said!r}"
    return None if contents(folder) == before else "left something on disk"


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Name, size and time of everything in a directory."""
    stats = {str(p.relative_to(folder)): p.lstat() for p in sorted(folder.rglob("*"))}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def faults(cases: Iterable[Case], folder: Path, seconds: float = 30.0) -> list[str]:
    """What is wrong, case by case."""
    found = ((case.name, judge(case, folder / "case", seconds)) for case in cases)
    return [f"{name}: {fault}" for name, fault in found if fault is not None]
