"""The command that serves bundles."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from beeline.cli.arguments import AUTO, Dev, check_device


def serve(
    bundles: Annotated[list[str], typer.Argument(help="Bundles: directories or hub:owner/name.", metavar="BUNDLE...")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of them.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    keys: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Users who may draw: a line 'NAME SHA256-OF-KEY' for each.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Most rows of an evaluation.")] = 64,
    waiting: Annotated[int, typer.Option(min=1, help="Most samples in the queue; more are refused with 429.")] = 4096,
    samples: Annotated[int, typer.Option(min=1, help="Most samples of a request.")] = 256,
    device: Dev = AUTO,
) -> None:
    """Serve bundles over HTTP: samples of several requests share batches, and do not depend on each other."""
    from beeline.core.errors import extra, require
    from beeline.runs.bundle import load
    from beeline.runs.scoring import labels_of

    where = check_device(device)  # before any work
    uvicorn: Any = extra("uvicorn", "serve")
    extra("fastapi", "serve")
    from beeline.serving.app import app
    from beeline.serving.keys import Keys
    from beeline.serving.service import Limits, Service

    known = None if keys is None else Keys.read(keys)
    require(
        known is not None or host in ("127.0.0.1", "localhost", "::1"),
        f"--host {host} lets others in, and no keys were given, so that everybody could draw; give --keys FILE",
    )
    loaded = {name: load(bundle, device=where) for name, bundle in zip(labels_of(bundles), bundles, strict=True)}
    service = Service(loaded, Limits(batch=batch, waiting=waiting, samples=samples))
    print(f"serving {', '.join(loaded)} on http://{host}:{port}", file=sys.stderr)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    try:
        uvicorn.run(app(service, known), host=host, port=port, log_level="warning", access_log=False)
    finally:
        service.close()
