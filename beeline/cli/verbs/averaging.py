"""The command that averages the weights of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from beeline.cli.arguments import Json, output_path, print_result


def average(
    run: Annotated[Path, typer.Argument(help="Directory of a run with power-function averages of the weights.")],
    length: Annotated[
        float, typer.Option(help="Standard deviation of the averaging window relative to the run, 0.01 to 0.28.")
    ],
    at: Annotated[int | None, typer.Option(metavar="STEP", help="End of the window; default the last step.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=output_path, metavar="PATH", help="Directory of the bundle; default RUN/averages/..."),
    ] = None,
    json_: Json = False,
) -> None:
    """Compute an average of the weights of a run for any window length, after training."""
    from beeline.runs.averaging import synthesised

    where, found = synthesised(run, length, at, out)
    print_result({"bundle": str(where), "snapshots": len(found.used), "mismatch": round(found.mismatch, 4)}, json_)
