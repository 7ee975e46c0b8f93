"""The command that makes a bundle smaller."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from beeline.cli.arguments import AUTO, Bundled, Dev, Json, Seed, check_device, output_path, print_result


def compress(
    bundle: Bundled,
    out: Annotated[Path, typer.Option(parser=output_path, metavar="PATH", help="Directory of the smaller bundle.")],
    methods: Annotated[
        list[str] | None,
        typer.Argument(
            help="Methods with settings, one after another: int8, 'GPTQ(bits=3)'; see 'beeline list compressors'.",
            metavar="METHOD...",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Data for the distances; default those of the bundle.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="LIMITS",
            help="size=0.25 or latency=0.5, beside the bundle: the best of the methods within it, or of usual ones.",
        ),
    ] = None,
    samples: Annotated[int, typer.Option("-n", "--samples", min=16, help="Samples of every distance.")] = 500,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="A page with a picture of the chain.")] = None,
    seed: Seed = 0,
    device: Dev = AUTO,
    json_: Json = False,
) -> None:
    """Make a bundle smaller, and measure what every step costs in quality."""
    from dataclasses import asdict

    from beeline.cli.console import console, table
    from beeline.config import build as config
    from beeline.core.errors import require
    from beeline.core.rng import Rng
    from beeline.networks.compressing.compressor import Plan
    from beeline.runs.bundle import load
    from beeline.runs.compressing.budget import ALTERNATIVES, budget_of
    from beeline.runs.compressing.job import compress as job
    from beeline.runs.compressing.job import parents_of
    from beeline.runs.compressing.measuring import rows_of
    from beeline.runs.compressing.page import page_of
    from beeline.runs.reference_data import comparable, data_set
    from beeline.runs.scoring import RealData

    where = check_device(device)  # before any work
    limits = None if budget is None else budget_of(budget)
    names = methods or list(ALTERNATIVES if limits is not None else ())
    chosen = [config.parse(name if "(" in name else f"{name}()", "compressors") for name in names]
    require(bool(chosen), "no method was given to compress by; name one of 'beeline list compressors', such as int8")
    require(not out.exists() or not any(out.iterdir()), f"{out} exists and is not empty; choose another directory")
    first = load(bundle, device=where)
    real = None
    if data is not None or "data" in first.lineage:
        source = data_set(data, first)
        comparable(source, first, "the bundle")
        real = RealData.of(source)

    def say(name: str, plan: Plan) -> None:
        if not json_:
            print(
                f"{name}: {len(plan.decisions)} parts, {plan.before:,} bytes to {plan.after:,}, about "
                f"{max(1, round(plan.seconds))} s and the measurement",
                file=sys.stderr,
            )

    found = job(
        first,
        chosen,
        names=names,
        real=real,
        samples=samples,
        rng=Rng(seed),
        say=say,
        budget=limits,
        parents=parents_of(first, where),
        directory=bundle,
    )
    found.bundle.save(out)
    if report is not None:
        report.write_text(page_of(found.links, found.tried), encoding="utf-8")
    if not json_:
        for links in (found.tried, found.links):
            if links:
                console.print(table(rows_of(links)))
    result = {"bundle": str(out), "bytes": found.links[-1].bytes, "before": found.before.bytes}
    if json_:
        result |= {"links": [asdict(link) for link in found.links], "tried": [asdict(link) for link in found.tried]}
    print_result(result, json_)
