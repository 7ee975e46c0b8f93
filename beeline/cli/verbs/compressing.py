"""The command that makes a bundle smaller."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from beeline.cli.arguments import AUTO, Bundled, Dev, Json, Seed, check_device, output_path, print_result


def compress(
    bundle: Bundled,
    methods: Annotated[
        list[str],
        typer.Argument(help="Methods, one after another; see 'beeline list compressors'.", metavar="METHOD..."),
    ],
    out: Annotated[Path, typer.Option(parser=output_path, metavar="PATH", help="Directory of the smaller bundle.")],
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Data for the distances; default those of the bundle.")
    ] = None,
    samples: Annotated[int, typer.Option("-n", "--samples", min=16, help="Samples of every distance.")] = 500,
    seed: Seed = 0,
    device: Dev = AUTO,
    json_: Json = False,
) -> None:
    """Make a bundle smaller, and measure what every step costs in quality."""
    from beeline.cli.console import cell, console, table
    from beeline.config import build as config
    from beeline.core.errors import require
    from beeline.core.rng import Rng
    from beeline.networks.compressing.compressor import Plan
    from beeline.runs.bundle import load
    from beeline.runs.compressing.job import compress as job
    from beeline.runs.reference_data import data_set
    from beeline.runs.scoring import RealData

    where = check_device(device)  # before any work
    chosen = [config.parse(method if "(" in method else f"{method}()", "compressors") for method in methods]
    require(not out.exists() or not any(out.iterdir()), f"{out} exists and is not empty; choose another directory")
    first = load(bundle, device=where)
    real = None if data is None and "data" not in first.lineage else RealData.of(data_set(data, first))

    def say(name: str, plan: Plan) -> None:
        if not json_:
            print(
                f"{name}: {len(plan.decisions)} layers, {plan.before:,} bytes to {plan.after:,}",
                file=sys.stderr,
            )

    found = job(first, chosen, names=methods, real=real, samples=samples, rng=Rng(seed), say=say)
    found.bundle.save(out)
    if not json_:
        rows = [
            {
                "bundle": link.method or "as it was",
                "bytes": f"{link.bytes:,}",
                "seconds": cell(link.seconds),
                "drift": cell(link.drift),
                "distance to data": cell(link.distance),
            }
            for link in found.links
        ]
        console.print(table(rows))
    print_result({"bundle": str(out), "bytes": found.links[-1].bytes, "before": found.links[0].bytes}, json_)
