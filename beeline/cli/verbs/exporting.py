"""The command that writes bundles for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from beeline.cli.arguments import Json, License, output_path, print_result


def export(
    bundle: Annotated[str, typer.Argument(help="A bundle or run, or a pipeline of diffusers.")],
    out: Annotated[Path, typer.Option(parser=output_path, metavar="PATH", help="New directory.")],
    to: Annotated[
        str, typer.Option(metavar="FORMAT", help="diffusers (a pipeline or a component) or onnx (one-step students).")
    ] = "diffusers",
    license_: License = None,
    json_: Json = False,
) -> None:
    """Write a bundle for another program, with a model card."""
    from beeline.hub.exporting import export as write
    from beeline.hub.loading import load

    print_result(write(load(bundle, device="cpu"), out, to, license=license_), json_)
