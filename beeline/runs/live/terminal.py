"""Progress of a training on the terminal, in a notebook, and in a file of output."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from beeline.core.protocols.training import Log
from beeline.runs.live.state import State, duration

QUIET = 15.0  # seconds between two lines where the output is no terminal


@contextmanager
def progress(title: str, steps: int, console: Console, folder: Path | None = None) -> Iterator[Log]:
    """Show the progress of a training; yields a log for ``fit``.

    A bar with losses, rate and remaining time on a terminal and in a notebook, lines elsewhere.  ``folder`` is the
    directory of the run, whose previews are named.
    """
    state = State(steps)
    shown = notebook if console.is_jupyter else bar if console.is_terminal else lines
    with shown(title, state, console, folder) as update:

        def log(entry: dict[str, Any]) -> None:
            state.record(entry)
            update(entry)

        yield log


def figures(state: State) -> str:
    """Losses, rate and remaining time as text."""
    parts = [f"loss {state.loss:.4f}"] if state.step else []
    parts += [f"held-out {state.heldout[-1][1]:.4f}"] if state.heldout else []
    parts += [f"{state.rate:,.0f} samples/s"] if state.rate else []
    return "  ".join(parts)


def places(state: State, folder: Path | None) -> str:
    """Where samples and the page of the run lie."""
    if folder is None:
        return ""
    found = [f"samples {folder / 'samples' / file}" for file in list(state.previews.values())[-1:]]
    found += [f"page {folder / 'live.html'}"] if (folder / "live.html").is_file() else []
    return "  ".join(found)


class TwoLines(Progress):
    """A progress bar with a second and a third line of text."""

    text = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self.text, overflow="fold")


@contextmanager
def bar(
    title: str, state: State, console: Console, folder: Path | None
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left {task.fields[left]}"),
    )
    with TwoLines(*columns, console=console, refresh_per_second=4) as made:
        task = made.add_task(escape(title), total=state.steps, left="unknown")

        def update(entry: Mapping[str, Any]) -> None:
            if "note" in entry:
                made.console.print(f"step {entry.get('step', 0)}: {entry['note']}", markup=False, style="dim")
            made.update(task, completed=state.step, total=state.steps, left=duration(state.remaining))
            where = places(state, folder) if HEAVY & set(entry) or not made.text else made.text.partition("\n")[2]
            made.text = f"{figures(state)}\n{where}".rstrip()

        yield update


HEAVY = {"heldout", "previews"}  # entries of evaluations, after which the files of the run are looked at


@contextmanager
def notebook(
    title: str, state: State, console: Console, folder: Path | None
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A bar in HTML, which every notebook shows without further packages."""
    from beeline.core.errors import extra

    display = extra("IPython.display", "notebook")
    handle = display.display(display.HTML(""), display_id=True)
    last = [0.0]

    def show() -> None:
        last[0] = time.monotonic()
        left = f"left {duration(state.remaining)}" if state.step < state.steps else "done"
        text = f"{state.step:,}/{state.steps:,}  {left}  {figures(state)}"
        where = html.escape(places(state, folder))
        handle.update(
            display.HTML(
                f"<div><b>{html.escape(title)}</b> <progress value='{state.step}' max='{state.steps}'></progress> "
                f"{html.escape(text)}<br><small>{where}</small></div>"
            )
        )

    def update(entry: Mapping[str, Any]) -> None:
        if "note" in entry or state.step in (1, state.steps) or time.monotonic() - last[0] > 0.5:
            show()

    try:
        yield update
    finally:
        show()


@contextmanager
def lines(
    title: str, state: State, console: Console, folder: Path | None
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A line from time to time, and one at the end."""
    last = [time.monotonic(), -1]

    def show() -> None:
        last[:] = [time.monotonic(), state.step]
        left = "" if state.step >= state.steps else f"  left {duration(state.remaining)}"
        console.print(f"{title}  {state.step}/{state.steps}  {figures(state)}{left}", markup=False, soft_wrap=True)

    def update(entry: Mapping[str, Any]) -> None:
        if "note" in entry:
            console.print(f"step {entry.get('step', 0)}: {entry['note']}", markup=False, soft_wrap=True)
        if time.monotonic() - last[0] > QUIET:
            show()

    try:
        yield update
    finally:
        if state.step != last[1] and state.step:
            show()
