"""The HTTP interface of a service."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from beeline import __version__
from beeline.serving.keys import Keys
from beeline.serving.logs import Log
from beeline.serving.routes import facts, images, samples
from beeline.serving.routes.errors import add_errors, failure
from beeline.serving.routes.waiting import Served

ROUTERS: tuple[Callable[[Served], APIRouter], ...] = (facts.router, samples.router, images.router)
BODY = 2**20  # bytes of a request
HOLDING_DATA = 2**24  # bytes of a request that holds data
HTTP = {"http"}  # the types of connections that are requests
WITH_DATA = ("/v1/edit", "/v1/score", "/v1/jobs/edit", "/v1/images/edits")


def app(
    served: Served, keys: Keys | None = None, log: Log | None = None, more: Sequence[Callable[[Served], APIRouter]] = ()
) -> FastAPI:
    """The application: ``keys`` are those of users who may draw, ``more`` further routers, such as the studio's."""
    made = FastAPI(title="Beeline", version=__version__, description="Samples of flows.", docs_url="/docs")
    add_errors(made)
    made.add_middleware(Guard, keys=keys or Keys(), log=log)
    for router in (*ROUTERS, *more):
        made.include_router(router(served))
    return made


class Guard:
    """Refuses requests before they are read, and logs them; as an ASGI application, with little work for each."""

    def __init__(self, app: ASGIApp, keys: Keys, log: Log | None):
        self.app, self.keys, self.log = app, keys, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in HTTP:
            await self.app(scope, receive, send)
            return
        request, begin, status = Request(scope), time.perf_counter(), 500
        request.state.user, request.state.drawn = "", {}

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await (refused(request, self.keys) or self.app)(scope, receive, noting)
        finally:
            if self.log is not None:
                self.log.write(
                    request.state.drawn,
                    user=request.state.user,
                    method=request.method,
                    path=request.url.path,
                    status=status,
                    seconds=round(time.perf_counter() - begin, 4),
                )


def refused(request: Request, keys: Keys) -> Response | None:
    """The answer to a request that is too large or has no known key; None for others, whose user is noted."""
    length, path = request.headers.get("content-length", "0"), request.url.path
    most = HOLDING_DATA if path in WITH_DATA else BODY
    if not length.isdigit() or int(length) > most or "transfer-encoding" in request.headers:
        return failure(413, f"a body of {length} bytes was announced; a request has at most {most:,}: send its length")
    user = keys.user(request.headers.get("authorization", ""))
    if user is None and path.startswith("/v1/"):
        return failure(401, "no known key was given; send the header Authorization: Bearer KEY")
    request.state.user = user or ""
    return None
