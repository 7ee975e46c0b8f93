"""The command that samples from a flow, or prints what that takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from beeline.cli.arguments import AUTO, Bundled, Dev, Json, Seed, Set, output_path, print_result
from beeline.core.errors import require


def sample(
    bundle: Bundled,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=output_path, metavar="PATH", help="File (.png, .npz, .npy, .csv, ...) or directory to write."
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Number of samples.")] = 64,
    cond: Annotated[
        str | None, typer.Option("--condition", "-c", help="Condition: NAME=VALUE, or a JSON or YAML file.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--input", help="File of source data, for a flow between two data sets.")
    ] = None,
    steer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ENERGY",
            help="Lead samples to a low energy, such as 'Near((0.5, 1.0))', or by a controller; see 'beeline list "
            "energies' and 'beeline list controllers'; repeatable.",
        ),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="A control.safetensors that 'beeline adapt' has trained for this flow; repeatable. Its hint is the "
            "condition 'control'.",
        ),
    ] = None,
    seed: Seed = 0,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="SEED,...", help="Seeds of the samples, one for each: the same in any number of samples."),
    ] = None,
    set_: Set = None,
    plan: Annotated[
        bool,
        typer.Option("--dry-run", "--plan", help="Print the expected memory and time of a pretrained model, and exit."),
    ] = False,
    device: Dev = AUTO,
    json_: Json = False,
) -> None:
    """Sample from a flow."""
    require(
        plan or out is not None,
        "no place was given for the samples, which are written to a file; add --out samples.png",
    )
    from beeline.cli import commands, planning

    if out is None or plan:
        planning.plan_sampling(bundle, n, set_ or [], json_, device)
        return
    keys = None if seeds is None else whole_numbers(seeds, n)
    require(
        keys is None or source is None,
        "--seeds was given with --input, whose data are not drawn from noise; leave one of them out",
    )
    how, rest = planning.loading(set_ or [])
    print_result(
        commands.sample(bundle, n, cond, seed, rest, out, source, device, how, steer or (), keys, control or ()), json_
    )


def whole_numbers(text: str, n: int) -> list[int]:
    """One seed for every sample."""
    parts = [part.strip() for part in text.split(",")]
    require(
        len(parts) == n and all(part.isascii() and part.isdigit() for part in parts),
        f"--seeds {text[:80]} is no list of seeds for {n} samples; give {n} whole numbers from 0, separated by commas",
    )
    return [int(part) for part in parts]
