"""Requests that are accepted, waited for and answered."""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from beeline import __version__
from beeline.core.errors import require
from beeline.data.pictures.provenance import assertion, with_provenance
from beeline.serving.answers import JSON, PNG, accepted, as_json, file_of
from beeline.serving.backend import Backend, Handle
from beeline.serving.jobs import ENDED, State, TooLateError
from beeline.serving.rates import Rates
from beeline.serving.requests import Requested
from beeline.serving.routes.errors import failure
from beeline.serving.works import Result

SMALL = 2**14  # numbers that are written as JSON without another thread


@dataclass(frozen=True)
class Served:
    """What routes share."""

    backend: Backend
    limit: float = 300.0  # seconds of a request
    rates: Rates | None = None  # of every user
    provenance: bool = True  # in the text of PNG files


async def accept(served: Served, request: Request, body: Requested) -> Handle:
    """Accept a request, as far as the rate of its user allows, and note what it is for the log."""
    if body.quick and served.backend.in_process:  # another thread would take longer to begin
        return _accepted(served, request, body)
    return await asyncio.to_thread(_accepted, served, request, body)


def _accepted(served: Served, request: Request, body: Requested) -> Handle:
    user = request.state.user
    with contextlib.nullcontext() if served.rates is None else served.rates.taken(user, body.rows):
        job = served.backend.accept(body, user)
    request.state.drawn = {"model": job.model, "job": job.id, "rows": body.rows, "condition": body.conditions}
    return job


async def answered(served: Served, request: Request, body: Requested) -> Response:
    """Accept a request, wait for its end, and answer in the form that the header Accept names."""
    modality = served.backend.model(body.model).bundle.modality
    kind = accepted(request.headers.get("accept", "*/*"), modality.formats)
    job = await done(served, request, body)
    if kind == JSON and body.rows * math.prod(modality.shape) <= SMALL:
        return answer(served, job, modality, kind)
    return await asyncio.to_thread(answer, served, job, modality, kind)


async def done(served: Served, request: Request, body: Requested) -> Handle:
    """Accept a request and wait for its end."""
    job = await accept(served, request, body)
    await ended(served, job, request)
    return job


async def ended(served: Served, job: Handle, request: Request) -> None:
    """Wait for the end of a job; it is cancelled when its client leaves or the time has passed."""
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()

    def finish() -> None:
        if not end.done():
            end.set_result(None)

    def changed() -> None:
        if job.state in ENDED:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(finish)

    job.listen(changed)
    due = loop.time() + served.limit
    while job.state not in ENDED and loop.time() < due:
        await asyncio.wait((end,), timeout=min(1.0, due - loop.time()))
        if not end.done() and await request.is_disconnected():
            served.backend.cancel(job)
    if job.state not in ENDED:
        served.backend.cancel(job)
        raise HTTPException(504, f"it took more than {served.limit:g} seconds; request fewer samples or steps")


def event_of(job: Handle) -> asyncio.Event:
    """An event of this loop that is set after every change of a job."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    def changed() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(event.set)

    job.listen(changed)
    return event


def unfinished(job: Handle) -> Response | None:
    """The answer for a job that ended without a result; None for one that is done."""
    if job.state is State.CANCELLED:
        return failure(409, f"the job {job.id} was cancelled; request it again")
    if job.state is State.FAILED:
        if isinstance(job.error, TooLateError):
            return failure(504, str(job.error))
        bad = isinstance(job.error, ValueError)
        return failure(422 if bad else 500, str(job.error) if bad else f"the job {job.id} failed; see the log")
    return None


def answer(served: Served, job: Handle, modality: Any, kind: str) -> Response:
    """The result of a job as JSON, or as a file of the modality."""
    failed = unfinished(job)
    if failed is not None:
        return failed
    result: Result = job.result or Result()
    if kind != JSON:
        require(result.raw is not None, f"Accept is {kind!r}, and this answer has numbers alone; accept {JSON}")
        content = file_of(modality, result.raw, kind)
        return Response(stated(served, job, content) if kind == PNG else content, media_type=kind)
    samples = {} if result.raw is None else {"samples": as_json(result.raw)}
    return JSONResponse({"id": job.id, "model": job.model, **result.facts, **samples})


def stated(served: Served, job: Handle, content: bytes) -> bytes:
    """A PNG file with a statement of where it comes from, without its condition, which may be private."""
    if not served.provenance:
        return content
    bundle = served.backend.model(job.model).bundle
    facts = job.result.facts if job.result is not None else {}
    known: dict[str, Any] = {name: facts[name] for name in ("seeds", "evaluations") if name in facts}
    return with_provenance(content, assertion(f"Beeline {__version__}", job.model, bundle.weights, known))
