"""The command that changes data from one condition to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from beeline.cli.arguments import AUTO, Bundled, Dev, Json, Output, Seed, Set, output_path, print_result
from beeline.core.errors import BeelineError, nearest, require


def edit(
    bundle: Bundled,
    method: Annotated[
        str, typer.Argument(help="FlowEdit, SDEdit, ...; see 'list edits'; auto tries them and takes the best trade.")
    ],
    given: Annotated[
        Path, typer.Argument(metavar="INPUT", help="File of data of the kind that the model generates, or a folder.")
    ],
    out: Output,
    to: Annotated[
        list[str],
        typer.Option("--to", help="New condition: NAME=VALUE, or a JSON or YAML file; repeatable, a file for each."),
    ],
    cond: Annotated[
        str | None,
        typer.Option("--from", help="Condition of the input, NAME=VALUE or a file; default the labels of its file."),
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="A picture, white where the data may change.")] = None,
    preserve: Annotated[
        float | None,
        typer.Option(help="Largest mean distance of what is kept, in the range of pixels or standard deviations."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(parser=output_path, metavar="PATH", help="HTML page of before, after and difference.")
    ] = None,
    seed: Seed = 0,
    set_: Set = None,
    device: Dev = AUTO,
    json_: Json = False,
) -> None:
    """Change data from one condition to another, and keep the rest.

    Settings: --set method.start=0.5, --set sampler.steps=40, --set sampler.guidance='CFG(3)'.
    """
    from beeline.cli import commands
    from beeline.cli.verbs.edits.job import Job, perform

    groups: dict[str, dict[str, str]] = {"method": {}, "sampler": {}}
    for key, value in commands.settings(set_ or []).items():
        group = key.partition(".")[0]
        require(group in groups, f"{key!r} is no setting of an edit; {nearest(key, ['method.start', 'sampler.steps'])}")
        groups[group][key] = value
    sampler = [f"{key}={value}" for key, value in groups["sampler"].items()]
    job = Job(bundle, method, groups["method"], sampler, given, out, tuple(to), cond, mask, preserve, report, seed)
    result, refused = perform(job, device, quiet=json_)
    print_result(result, json_)
    if refused:
        raise BeelineError(
            f"{len(refused)} of the files in {given} could not be edited, the others were: "
            + "; ".join(f"{file} ({why})" for file, why in refused.items())
        )


def invert(
    bundle: Bundled,
    given: Annotated[Path, typer.Argument(metavar="INPUT", help="File of data of the kind that the model generates.")],
    out: Annotated[Path, typer.Option(parser=output_path, metavar="PATH", help="File .npz for the noise.")],
    cond: Annotated[
        str | None,
        typer.Option("--from", help="Condition of the input, NAME=VALUE or a file; default the labels of its file."),
    ] = None,
    method: Annotated[str, typer.Option(help="Backwards, Controlled(gamma=0.5), ...; see 'list inversions'.")] = (
        "Backwards"
    ),
    end: Annotated[float, typer.Option(help="Time of the states, 0 is noise.")] = 0.0,
    seed: Seed = 0,
    set_: Set = None,
    device: Dev = AUTO,
    json_: Json = False,
) -> None:
    """Find the noise from which the flow leads to data, and how exactly it gives them back.

    Settings: --set sampler.steps=40, --set sampler.solver=MidpointReuse.
    """
    import numpy as np

    from beeline.cli import commands
    from beeline.cli.conditions import condition
    from beeline.cli.verbs.edits.folders import read
    from beeline.config import build as config
    from beeline.core.files import replacing
    from beeline.hub.loading import load
    from beeline.runs.editing.edit import editable

    require(out.suffix == ".npz", f"--out {out} was given for noise, which is an array; name a file that ends in .npz")
    inversion = config.parse(method, "inversions")
    require(given.is_file(), f"there is no file {given}; give the data that are to be inverted")
    model = load(bundle, device=device)
    editable(model)
    sampler = commands.sampler_of(model, set_ or [])
    (part,), _ = read(model, [given], condition(cond), None, folder=False)
    found = model.invert(given, part.cond, inversion=inversion, end=end, seed=seed, sampler=sampler)
    with replacing(out) as draft, draft.open("wb") as file:
        np.savez_compressed(file, noise=found.noise.numpy(), error=found.error.numpy())
    print_result({"file": str(out), "method": method, "inputs": len(found.noise), "seed": seed, **found.summary}, json_)


def detect(
    bundle: Bundled,
    given: Annotated[Path, typer.Argument(metavar="INPUT", help="File of pictures of the size of the model.")],
    watermark: Annotated[Path, typer.Option(metavar="FILE", help="File with the secret of the watermark.")],
    cond: Annotated[
        str | None,
        typer.Option("--from", help="Condition of the input, NAME=VALUE or a file; default the learned null."),
    ] = None,
    set_: Set = None,
    device: Dev = AUTO,
    json_: Json = False,
) -> None:
    """Find out whether pictures have the watermark of a secret, and print the provenance that their file holds.

    Settings: --set sampler.steps=40.
    """
    from beeline.cli import commands
    from beeline.cli.conditions import condition
    from beeline.data.pictures.provenance import provenance_in
    from beeline.hub.loading import load
    from beeline.runs.editing.watermarks import detect as found_in
    from beeline.runs.editing.watermarks import secret_of

    mark = secret_of(watermark)
    require(given.is_file(), f"there is no file {given}; give the pictures that are to be examined")
    model = load(bundle, device=device)
    found = found_in(model, mark, given, condition(cond), commands.sampler_of(model, set_ or []))
    print_result({"file": str(given), **found.summary, "provenance": provenance_in(given)}, json_)
