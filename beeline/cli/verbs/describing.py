"""The commands that list and describe components."""

from __future__ import annotations

from typing import Annotated

import typer

from beeline.cli.arguments import Json, Set


def list_(
    kind: Annotated[str | None, typer.Argument(help="A kind of component; default all kinds.")] = None,
    json_: Json = False,
) -> None:
    """List components by kind, one line each."""
    from beeline.cli import listing

    listing.list_components(kind, json_)


def describe(
    name: Annotated[str, typer.Argument(help="A component or a recipe.")],
    yaml: Annotated[bool, typer.Option("--yaml", help="Print a recipe as YAML.")] = False,
    set_: Set = None,
    json_: Json = False,
) -> None:
    """Describe a component (formula, assumptions, settings, source) or a recipe."""
    from beeline.cli import describing

    describing.describe(name, yaml, set_ or [], json_)
