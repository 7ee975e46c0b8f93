"""The command that serves bundles."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from beeline.cli.arguments import AUTO, Dev, check_device
from beeline.core.errors import BeelineError


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
    limit: Annotated[float, typer.Option(min=0.1, help="Seconds of a request, after which it is cancelled.")] = 300.0,
    rate: Annotated[int | None, typer.Option(min=1, help="Samples that a user may request in a minute.")] = None,
    watermark: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with a secret; pictures get its watermark (see detect).")
    ] = None,
    provenance: Annotated[bool, typer.Option(help="State the origin of pictures inside of their PNG files.")] = True,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File for a line of JSON for every request, without conditions.")
    ] = None,
    log_conditions: Annotated[bool, typer.Option(help="Log conditions and prompts too, which may be private.")] = False,
    queue: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Redis of a queue that several servers share, as redis://HOST:6379/0."),
    ] = None,
    lease: Annotated[
        float, typer.Option(min=0.5, help="Seconds of silence after which others do what a server had taken.")
    ] = 10.0,
    page: Annotated[
        bool, typer.Option("--page", help="Also serve the studio: a web page to draw, compare and edit.")
    ] = False,
    device: Dev = AUTO,
    devices: Annotated[
        str | None,
        typer.Option(metavar="DEVICE,...", help="Devices with a copy of each network, as cuda:0,cuda:1."),
    ] = None,
    resident: Annotated[
        int | None, typer.Option(min=1, help="Most networks that are loaded; others are loaded when they are used.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that draw, each with all networks; 0: this one does it.")
    ] = 0,
) -> None:
    """Serve bundles over HTTP: samples of several requests share batches, and do not depend on each other."""
    from beeline.core.errors import extra, require
    from beeline.runs.editing.watermarks import secret_of
    from beeline.runs.scoring import labels_of

    several = [] if devices is None else [check_device(name.strip()) for name in devices.split(",")]
    where = several[0] if several else check_device(device)  # before any work
    uvicorn: Any = extra("uvicorn", "serve")
    extra("fastapi", "serve")
    from beeline.serving.app import app
    from beeline.serving.hosting.places import Places
    from beeline.serving.hosting.places import served as load_served
    from beeline.serving.keys import Keys
    from beeline.serving.logs import Log
    from beeline.serving.rates import Rates
    from beeline.serving.routes.waiting import Served
    from beeline.serving.service import Limits, Service
    from beeline.serving.studio.router import studio

    known = None if keys is None else Keys.read(keys)
    require(
        known is not None or host in ("127.0.0.1", "localhost", "::1"),
        f"--host {host} lets others in, and no keys were given, so that everybody could draw; give --keys FILE",
    )
    require(
        not workers or (queue is None and not several),
        f"--workers {workers} was given with --queue or --devices; start several servers for one queue, or give one",
    )
    mark = None if watermark is None else secret_of(watermark)
    lines = None if log is None else Log(log.open("a", encoding="utf-8"), log_conditions)
    bound = _bound(host, port)
    shared = None if queue is None else _shared(queue, waiting, lease)
    places = dict(zip(labels_of(bundles), bundles, strict=True))
    limits = Limits(batch=batch, waiting=waiting, samples=samples, resident=resident)
    loads = {name: partial(load_served, place, where, mark) for name, place in places.items()}
    others = (_workers(loads, limits, workers),) if workers else ()
    service: Any = (shared or Service)(Places(loads), limits, several, *others)
    named = places if mark is None else {}  # commands draw without a watermark
    more = (studio(named, keys is not None, samples),) if page else ()
    print(f"serving {', '.join(places)} on http://{host}:{port}{'/' if page else ''}", file=sys.stderr)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    served = Served(service, limit, None if rate is None else Rates(rate), provenance)
    gc.collect()
    gc.freeze()  # a search through all that is loaded would delay requests by a fifth of a second
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again after the last request
    try:
        with contextlib.suppress(KeyboardInterrupt):
            settings = uvicorn.Config(app(served, known, lines, more), log_level="warning", access_log=False)
            uvicorn.Server(settings).run(sockets=[bound])
    finally:
        service.close()
        if lines is not None:
            lines.file.close()


def _bound(host: str, port: int) -> socket.socket:
    """A socket with the address, which refuses connections until the server listens."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise BeelineError(
            f"the address {host}, port {port}, cannot be listened on ({error.strerror}); give another --port or --host"
        ) from None
    return made


def _shared(url: str, waiting: int, lease: float) -> Callable[..., Any]:
    """A service of a queue, which is there."""
    from beeline.serving.redis.queue import RedisQueue
    from beeline.serving.redis.service import RedisService

    queue = RedisQueue(url, waiting, lease)
    return lambda bundles, limits, devices: RedisService(bundles, queue, limits, devices)


def _workers(loads: Mapping[str, Callable[[], Any]], limits: Any, count: int) -> Any:
    """Processes that have loaded the models."""
    from beeline.serving.processes.workers import Workers

    return Workers(loads, limits, count)
