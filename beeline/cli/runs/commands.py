"""``beeline runs`` and its subcommands."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from beeline.cli.arguments import Json, output_path
from beeline.cli.console import console, table
from beeline.cli.runs.summary import Summary, find, summaries
from beeline.core.errors import BeelineError, require

app = typer.Typer(no_args_is_help=False, rich_markup_mode=None, add_completion=False)

Root = Annotated[Path, typer.Option("--root", metavar="DIR", help="Folder of the runs.")]
RUNS = Path("runs")


@app.callback(invoke_without_command=True, epilog="Example: beeline runs compare digits digits-2")
def list_(context: typer.Context, root: Root = RUNS, json_: Json = False) -> None:
    """List runs: state, steps, held-out loss, scores and size; compare, open and delete them."""
    context.obj = root
    if context.invoked_subcommand is not None:
        return
    found = summaries(root)
    if json_:
        typer.echo(json.dumps([one.plain() for one in found], indent=2))
        return
    if not found:
        typer.echo(f"there are no runs in {root}; 'beeline train' writes to runs/, and --root names another folder")
        return
    console.print(listed(found))


@app.command(epilog="Example: beeline runs compare digits digits-2 --out compare.html")
def compare(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Two or more runs.")],
    context: typer.Context,
    root: Annotated[Path | None, typer.Option("--root", metavar="DIR", help="Folder of the runs.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=output_path, metavar="FILE", help="HTML page to write; default DIR/compare.html."),
    ] = None,
) -> None:
    """Compare runs: settings that differ, loss curves, scores and samples."""
    from beeline.cli.runs import comparing

    folder = folder_of(context, root)
    require(len(set(names)) > 1, "one run was given, and a comparison needs two or more; see 'beeline runs'")
    runs = {name: find(name, folder) for name in dict.fromkeys(names)}
    comparing.print_comparison(runs)
    page = out or folder / "compare.html"
    comparing.write_page(runs, page)
    typer.echo(f"page  {page}")


@app.command("open", epilog="Example: beeline runs open digits")
def open_(
    name: Annotated[str, typer.Argument(help="A run.")],
    context: typer.Context,
    root: Annotated[Path | None, typer.Option("--root", metavar="DIR", help="Folder of the runs.")] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it in the browser.")] = True,
) -> None:
    """Print the path of the report of a run, or of its live page, and open it in the browser."""
    run = find(name, folder_of(context, root))
    pages = [run / "report.html", run / "live.html"]
    page = next((one for one in pages if one.is_file()), None)
    if page is None:
        raise BeelineError(
            f"{run} has neither report.html nor live.html, because it was trained with --no-report; 'beeline evaluate "
            f"{run}' prints its scores"
        )
    typer.echo(str(page))
    if browser and sys.stdout.isatty():
        typer.launch(page.resolve().as_uri())


@app.command(epilog="Example: beeline runs delete digits-2")
def delete(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Runs to delete.")],
    context: typer.Context,
    root: Annotated[Path | None, typer.Option("--root", metavar="DIR", help="Folder of the runs.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete runs with their checkpoints, models and reports, after a question."""
    folder = folder_of(context, root)
    runs = [find(name, folder) for name in dict.fromkeys(names)]
    known = summaries(folder)
    for run in runs:
        refuse(run, known)
    if not yes:
        typer.echo("\n".join(described(run, known) for run in runs))
        try:
            agreed = typer.confirm(f"Delete {len(runs)} run{'s' if len(runs) > 1 else ''}?")
        except typer.Abort:
            raise BeelineError("no answer was given, so nothing was deleted; answer y or n, or give --yes") from None
        if not agreed:
            typer.echo("nothing was deleted")
            return
    for run in runs:
        remove(run)
        typer.echo(f"deleted {run}")


def folder_of(context: typer.Context, root: Path | None) -> Path:
    """The folder of the runs, given before or after the subcommand."""
    return Path(context.obj or RUNS) if root is None else root


WHOLE = ("name", "state", "steps", "held-out", "age", "size")  # columns that are never folded


def listed(found: Sequence[Summary]) -> Any:
    """Runs as a table that fits 80 columns."""
    return table([row(one) for one in found], whole=WHOLE)


def row(one: Summary) -> dict[str, Any]:
    """A run as a row of the table."""
    first = next(iter(one.scores.items()), None)
    return {
        "name": one.name,
        "state": one.state,
        "steps": f"{one.step:,}/{one.steps:,}",
        "recipe": one.recipe.partition(",")[0],
        "data": one.data,
        "held-out": one.heldout,
        "score": "" if first is None else f"{first[0]} {first[1]:.3g}",
        "age": ago(time.time() - one.updated),
        "size": megabytes(one.size),
    }


def ago(seconds: float) -> str:
    """A time that has passed, in its largest unit.

    >>> ago(30), ago(7300), ago(200_000)
    ('30 s', '2 h', '2 d')
    """
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def megabytes(size: float) -> str:
    """Bytes as text.

    >>> megabytes(3_200_000), megabytes(4.1e9)
    ('3.2 MB', '4.1 GB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def refuse(run: Path, known: Sequence[Summary]) -> None:
    """Refuse to delete what is a link, or a run that is training."""
    from beeline.core.files import in_use

    require(not run.is_symlink(), f"{run} is a link, and only directories of runs are deleted; delete its target")
    require(
        not in_use(run),
        f"{run} is training, and deleting it would end the training with an error; stop it first, or wait for its end",
    )


def described(run: Path, known: Sequence[Summary]) -> str:
    """A run that is to be deleted, in a line, with the runs that need it."""
    own = next((one for one in known if Path(one.path).resolve() == run.resolve()), None)
    text = f"{run}" if own is None else f"{run}: {own.state}, {own.step:,}/{own.steps:,} steps, {megabytes(own.size)}"
    students = [one.name for one in known if Path(one.recipe.partition(" of ")[2]).resolve() == run.resolve()]
    return f"{text}; it is the teacher of {', '.join(students)}" if students else text


def remove(run: Path) -> None:
    """Delete the directory of a run, run.yaml last, so that an interrupted deletion can be repeated."""
    from beeline.core.files import locked

    with locked(run):
        for part in sorted(run.iterdir(), key=lambda part: part.name in ("run.yaml",)):
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)
    if run.is_dir():
        run.rmdir()
