"""``beeline describe``: the settings of a recipe, or the documentation of a component."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import torch
from rich.markup import escape

from beeline.cli.commands import recipe
from beeline.cli.console import console, table
from beeline.config import build as config
from beeline.config import catalogue
from beeline.config import docs as pages
from beeline.core.errors import BeelineError, nearest, require
from beeline.core.rng import Rng
from beeline.runs.run import to_yaml
from beeline.runs.run_directory import flat


def describe(name: str, as_yaml: bool, pairs: Sequence[str], as_json: bool) -> None:
    """Print a recipe with its settings, or the documentation of a component."""
    full = catalogue.find(name) if "." in name else find(name)
    kind, _, short = full.partition(".")
    if kind == "recipes":
        run = recipe(short, pairs)
        if as_yaml:
            print(to_yaml(run), end="")
            return
        if as_json:
            print(json.dumps(config.describe(run), indent=2))
            return
        page = pages.explain(kind, short)
        console.print(f"[bold]{short}[/bold]  {escape(page.sentence)}")
        rows = [{"setting": key, "value": str(value)} for key, value in flat(config.describe(run)).items()]
        console.print(table(rows))
        return
    require(not as_yaml, f"{name} is one of the {kind}, and only recipes can be written as YAML; leave --yaml out")
    page = pages.explain(kind, short)
    if as_json:
        print(json.dumps(dataclasses.asdict(page), indent=2))
        return
    console.print(f"[bold]{page.name}[/bold]  ({kind})\n{escape(page.sentence)}\n")
    for part in (page.formula, page.assumes, page.source, page.example):
        if part:
            console.print(part + "\n", markup=False)
    if page.settings:
        names = ("setting", "type", "default", "meaning")
        console.print(table([dict(zip(names, row, strict=True)) for row in page.settings]))
    if kind == "times":
        density(full)


def density(full: str) -> None:
    """Print the density of a time distribution with its default settings, as twenty bars from source to data."""
    times = config.build({"is": full})
    t = (torch.arange(20, dtype=torch.float64) + 0.5) / 20
    if times(1, t, Rng(0)).ndim > 1:  # several times per datum
        return
    heights = times.log_prob(t).exp()
    if not heights.isfinite().all() or not heights.any():
        return
    console.print("\ndensity with default settings")
    for time, height in zip(t.tolist(), heights.tolist(), strict=True):
        bar = "█" * round(30 * height / float(heights.max()))
        console.print(f"t = {time:.3f}  {height:6.3f}  {bar}", markup=False)


def find(name: str) -> str:
    """The full name of a component given without its kind; recipes are searched first."""
    for kind in ("recipes", *catalogue.CATALOGUE):
        try:
            return catalogue.find(name, (kind,))
        except BeelineError:
            continue
    every = {n for names in catalogue.CATALOGUE.values() for n in names}
    hint = nearest(name, every).partition("valid names")[0]
    raise BeelineError(f"there is no component or recipe {name!r}; {hint}see 'beeline list' for all names")
