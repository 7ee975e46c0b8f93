"""The command that changes data from one condition to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from beeline.cli.arguments import AUTO, Dev, Json, Seed, Set, output_path, print_result
from beeline.cli.verbs.solving import write
from beeline.core.errors import nearest, require


def edit(
    bundle: Annotated[str, typer.Argument(help="A bundle: a directory or hub:owner/name.")],
    method: Annotated[str, typer.Argument(help="FlowEdit, SDEdit, InvertAndSample, ...; see 'list edits'.")],
    given: Annotated[Path, typer.Argument(metavar="INPUT", help="File of data, of the kind that the model generates.")],
    out: Annotated[
        Path,
        typer.Option(parser=output_path, metavar="PATH", help="File (.png, .npy, .csv, ...) or directory to write."),
    ],
    to: Annotated[str, typer.Option("--to", help="New condition: NAME=VALUE, or a JSON or YAML file.")],
    cond: Annotated[
        str | None, typer.Option("--from", help="Condition of the input: NAME=VALUE, or a JSON or YAML file.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="A picture, white where the data may change.")] = None,
    preserve: Annotated[
        float | None,
        typer.Option(help="Largest mean distance of what is kept, in the range of pixels or standard deviations."),
    ] = None,
    seed: Seed = 0,
    set_: Set = None,
    device: Dev = AUTO,
    json_: Json = False,
) -> None:
    """Change data from one condition to another, and keep the rest.

    Settings: --set method.start=0.5, --set sampler.steps=40, --set sampler.guidance='CFG(3)'.
    """
    print_result(_edited(bundle, method, given, out, to, cond, mask, preserve, seed, set_ or [], device), json_)


def _edited(
    name: str,
    method: str,
    given: Path,
    out: Path,
    to: str,
    cond: str | None,
    mask: Path | None,
    preserve: float | None,
    seed: int,
    pairs: list[str],
    device: str,
) -> dict[str, Any]:
    from beeline.cli import commands
    from beeline.cli.conditions import condition
    from beeline.config import build as config
    from beeline.hub.loading import load
    from beeline.runs.solving.tasks import marked

    groups: dict[str, dict[str, str]] = {"method": {}, "sampler": {}}
    for key, value in commands.settings(pairs).items():
        group = key.partition(".")[0]
        require(group in groups, f"{key!r} is no setting of an edit; {nearest(key, ['method.start', 'sampler.steps'])}")
        groups[group][key] = value
    made = config.change({"method": config.parse(method, "edits")}, groups["method"])["method"]
    require(given.exists(), f"there is no file {given}; give the data that are to be edited")
    region = None if mask is None else marked(mask).float()
    bundle = load(name, device=device)
    if bundle.modality is not None:
        commands.check_format(bundle.modality, out)
    sampler = commands.sampler_of(bundle, [f"{key}={value}" for key, value in groups["sampler"].items()])
    old, new = condition(cond), condition(to)
    found = bundle.edit(made, given, to=new, cond=old, region=region, preserve=preserve, seed=seed, sampler=sampler)
    write(bundle.modality, found.samples, out)
    return {"file": str(out), "method": method, "inputs": len(found.outcome.x), "seed": seed, **found.summary}
