"""Output on the terminal: progress bars, tables, and files with tracebacks."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def progress(title: str, steps: int, folder: Path | None = None, quiet: bool = False) -> Iterator[Any]:
    """The progress of a training; yields a log function for ``fit``, or None if ``quiet``."""
    from beeline.runs.live.terminal import progress as shown

    if quiet:
        yield None
        return
    with shown(title, steps, console, folder) as log:
        yield log


@contextmanager
def working(quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A status line for work of unknown length; yields the function that sets its text."""
    if quiet:
        yield lambda _: None
        return
    columns = (TextColumn("[bold]report"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, refresh_per_second=4, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda text: bar.update(task, description=escape(text))


@contextmanager
def counting(title: str, total: int, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar of data with their rate and remaining time on stderr; yields the function that counts further ones."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, refresh_per_second=4, transient=True, disable=quiet) as bar:
        task = bar.add_task(escape(title), total=total, rate="")

        def advance(n: int) -> None:
            bar.advance(task, n)
            speed = bar.tasks[0].speed
            bar.update(task, rate="" if speed is None else f"{speed:,.1f}/s")

        yield advance


def write_traceback(error: BaseException, command: str) -> str:
    """Write a command and the traceback of its error to a new file; returns its name."""
    handle, name = tempfile.mkstemp(prefix="beeline-error-", suffix=".log")
    with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{command}\n\n{''.join(traceback.format_exception(error))}")
    return name


def table(rows: Sequence[Mapping[str, Any]], title: str | None = None, whole: Sequence[str] = ()) -> Table:
    """Rows of plain data as a table with the keys of the first row as columns; those of ``whole`` are never folded."""
    heading = None if title is None else escape(title)
    narrow: dict[str, Any] = {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False, "show_edge": False}
    result = Table(title=heading, title_justify="left", header_style="bold", **narrow)
    names = list(rows[0]) if rows else []
    for name in names:
        numeric = all(isinstance(r.get(name), int | float) for r in rows)
        result.add_column(
            escape(str(name)), justify="right" if numeric else "left", overflow="fold", no_wrap=name in whole
        )
    for row in rows:
        result.add_row(*(cell(row.get(name)) for name in names))
    return result


def cell(value: Any) -> str:
    """A value as the text of a table cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(str(value))
