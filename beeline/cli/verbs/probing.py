"""The command that finds the convention of an unknown network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from beeline.cli.arguments import AUTO, Dev, Json, Seed, check_device, output_path, print_result


def probe(
    checkpoint: Annotated[
        str, typer.Argument(help="A bundle or run, or a directory of diffusers: a transformer or U-Net, or a pipeline.")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Data [N,...]: .npy, or .npz with x1 and conditions by name; for a bundle its held-out data."
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Number of data.")] = 512,
    latent: Annotated[
        list[str] | None,
        typer.Option(metavar="SCALE,SHIFT", help="Latents scale (x1 - shift) to try in addition; repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(parser=output_path, metavar="PATH", help="Python file for the convention.")
    ] = None,
    seed: Seed = 0,
    device: Dev = AUTO,
    json_: Json = False,
) -> None:
    """Find what a network predicts, which time it takes and how its data are scaled, by its error on data."""
    from beeline.hub.probing import probe as examine
    from beeline.hub.probing import write_entry

    where = check_device(device)  # before any work
    found = examine(checkpoint, data, latents=[pair(text) for text in latent or ()], n=n, seed=seed, device=where)
    if json_:
        typer.echo(json.dumps(found.as_dict(), indent=2))
    else:
        show(found)
    if out is not None:
        write_entry(found, out)


def pair(text: str) -> tuple[float, float]:
    """SCALE,SHIFT or SCALE from the command line."""
    from beeline.core.errors import BeelineError

    scale, _, shift = text.partition(",")
    try:
        return float(scale), float(shift or 0)
    except ValueError:
        raise BeelineError(f"--latent got {text!r}; give SCALE,SHIFT, for example --latent 0.18215,0") from None


def show(found: Any) -> None:
    """Print the verdict, the best readings and the entry."""
    from beeline.cli.console import console, table

    best = found.readings[0]
    facts = {
        "verdict": str(best) if found.decided else "undecided",
        "margin": f"{found.margin:.3g} standard errors to the second reading, on {found.n} data",
        "error": f"{found.losses[0]:.4g}; {found.linear:.4g} for a linear estimate of every coordinate",
    }
    print_result(facts, False)
    rows = [
        {"reading": row["reading"], "error": f"{row['error']:.4g}", "behind": f"{row['standard errors behind']:.3g}"}
        for row in found.rows()
    ]
    console.print(table(rows))
    if not found.decided:
        console.print(f"undecided: {found.reason}", markup=False)
        return
    typer.echo(f"\n{best.entry()}")
