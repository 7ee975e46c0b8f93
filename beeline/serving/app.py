"""The HTTP interface of a service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, FastAPI, Request, Response

from beeline import __version__
from beeline.serving.backend import Backend
from beeline.serving.keys import Keys
from beeline.serving.routes import facts, images, samples
from beeline.serving.routes.errors import add_errors, failure
from beeline.serving.routes.waiting import Served

ROUTERS: tuple[Callable[[Served], APIRouter], ...] = (facts.router, samples.router, images.router)
BODY = 2**20  # bytes of a request
HOLDING_DATA = 2**24  # bytes of a request that holds data
WITH_DATA = ("/v1/edit", "/v1/score", "/v1/jobs/edit", "/v1/images/edits")


def app(backend: Backend, keys: Keys | None = None, limit: float = 300.0) -> FastAPI:
    """The application: ``keys`` are those of users who may draw; ``limit`` are the seconds of a request."""
    made = FastAPI(title="Beeline", version=__version__, description="Samples of flows.", docs_url="/docs")
    add_errors(made)
    _guard(made, keys or Keys())
    for router in ROUTERS:
        made.include_router(router(Served(backend, limit)))
    return made


def _guard(made: FastAPI, keys: Keys) -> None:
    @made.middleware("http")
    async def guard(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        length = request.headers.get("content-length", "0")
        most = HOLDING_DATA if request.url.path in WITH_DATA else BODY
        if not length.isdigit() or int(length) > most or "transfer-encoding" in request.headers:
            return failure(
                413, f"a body of {length} bytes was announced; a request has at most {most:,}: send its length"
            )
        user = keys.user(request.headers.get("authorization", ""))
        if user is None and request.url.path.startswith("/v1/"):
            return failure(401, "no known key was given; send the header Authorization: Bearer KEY")
        request.state.user = user or ""
        return await call(request)
