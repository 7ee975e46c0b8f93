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

from beeline.core.errors import require
from beeline.serving.answers import JSON, accepted, as_json, file_of
from beeline.serving.backend import Backend, Handle
from beeline.serving.jobs import ENDED, State
from beeline.serving.requests import Requested
from beeline.serving.routes.errors import failure
from beeline.serving.works import Result


@dataclass(frozen=True)
class Served:
    """What routes share."""

    backend: Backend
    limit: float = 300.0  # seconds of a request


async def answered(served: Served, request: Request, body: Requested) -> Response:
    """Accept a request, wait for its end, and answer in the form that the header Accept names."""
    modality = served.backend.model(body.model).bundle.modality
    kind = accepted(request.headers.get("accept", "*/*"), modality.formats)
    job = await done(served, request, body)
    return await asyncio.to_thread(answer, job, modality, kind)


async def done(served: Served, request: Request, body: Requested) -> Handle:
    """Accept a request and wait for its end."""
    job = await asyncio.to_thread(served.backend.accept, body, request.state.user)
    await ended(served, job, request)
    return job


async def ended(served: Served, job: Handle, request: Request) -> None:
    """Wait for the end of a job; it is cancelled when its client leaves or the time has passed."""
    event = event_of(job)
    for _ in range(math.ceil(served.limit)):
        if job.state in ENDED:
            return
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_until_ended(job, event), 1.0)
        if await request.is_disconnected():
            served.backend.cancel(job)
    if job.state not in ENDED:
        served.backend.cancel(job)
        raise HTTPException(504, f"it took more than {served.limit:g} seconds; request fewer samples or steps")


async def _until_ended(job: Handle, event: asyncio.Event) -> None:
    while job.state not in ENDED:
        event.clear()
        await event.wait()


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
        bad = isinstance(job.error, ValueError)
        return failure(422 if bad else 500, str(job.error) if bad else f"the job {job.id} failed; see the log")
    return None


def answer(job: Handle, modality: Any, kind: str) -> Response:
    """The result of a job as JSON, or as a file of the modality."""
    failed = unfinished(job)
    if failed is not None:
        return failed
    result: Result = job.result or Result()
    if kind != JSON:
        require(result.raw is not None, f"Accept is {kind!r}, and this answer has numbers alone; accept {JSON}")
        return Response(file_of(modality, result.raw, kind), media_type=kind)
    samples = {} if result.raw is None else {"samples": as_json(result.raw)}
    return JSONResponse({"id": job.id, "model": job.model, **result.facts, **samples})
