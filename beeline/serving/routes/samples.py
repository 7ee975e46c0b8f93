"""Samples, edits and scores that are waited for, and jobs that are not."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from beeline.serving.answers import ENDINGS, PNG, accepted, file_of
from beeline.serving.backend import Backend, Handle
from beeline.serving.jobs import ENDED, State
from beeline.serving.requests import SampleRequest
from beeline.serving.routes.errors import failure
from beeline.serving.routes.waiting import Served, accept, answer, answered, event_of
from beeline.serving.uses import EditRequest, ScoreRequest


def router(served: Served) -> APIRouter:
    """``/v1/sample``, ``/v1/edit``, ``/v1/score`` and ``/v1/jobs``."""
    made, backend = APIRouter(), served.backend

    @made.post("/v1/sample")
    async def sample(request: Request, body: SampleRequest) -> Response:
        """Draw samples; JSON, or a file of the type that Accept names."""
        return await answered(served, request, body)

    @made.post("/v1/edit")
    async def edit(request: Request, body: EditRequest) -> Response:
        """Change data from one condition to another; JSON, or a file of the type that Accept names."""
        return await answered(served, request, body)

    @made.post("/v1/score")
    async def score(request: Request, body: ScoreRequest) -> Response:
        """Log-likelihoods of data in nats, of pictures also in bits per dimension."""
        return await answered(served, request, body)

    @made.post("/v1/jobs", status_code=202)
    async def start(request: Request, body: SampleRequest) -> dict[str, Any]:
        """Draw samples without waiting; the answer has the id of the job."""
        return status_of(await accept(served, request, body))

    @made.post("/v1/jobs/edit", status_code=202)
    async def start_edit(request: Request, body: EditRequest) -> dict[str, Any]:
        """Change data without waiting."""
        return status_of(await accept(served, request, body))

    @made.get("/v1/jobs/{id}")
    async def status(id: str) -> dict[str, Any]:
        """What a job does."""
        return status_of(backend.job(id))

    @made.delete("/v1/jobs/{id}")
    async def cancel(id: str) -> dict[str, Any]:
        """Cancel a job."""
        job = backend.job(id)
        backend.cancel(job)
        return status_of(job)

    @made.get("/v1/jobs/{id}/result")
    async def result(id: str, request: Request) -> Response:
        """The result of a job that is done."""
        job = backend.job(id)
        if job.state not in ENDED:
            return failure(409, f"the job {id} is {job.state.value}; wait until it is done")
        modality = backend.model(job.model).bundle.modality
        kind = accepted(request.headers.get("accept", "*/*"), modality.formats)
        return await asyncio.to_thread(answer, served, job, modality, kind)

    @made.get("/v1/jobs/{id}/events")
    async def events(id: str, previews: bool = False) -> StreamingResponse:
        """Server-sent events: the state of a job after every change, with previews as pictures if wanted."""
        return StreamingResponse(_events(backend, backend.job(id), previews), media_type="text/event-stream")

    return made


def status_of(job: Handle) -> dict[str, Any]:
    """What a job does, as plain data."""
    return {
        "id": job.id,
        "model": job.model,
        "state": job.state.value,
        "progress": round(job.progress, 4) if job.state is not State.DONE else 1.0,
        "error": None if job.error is None else str(job.error),
    }


async def _events(backend: Backend, job: Handle, previews: bool) -> AsyncIterator[str]:
    event = event_of(job)
    modality = backend.model(job.model).bundle.modality
    if previews:
        await asyncio.to_thread(backend.watch, job)
    while True:
        event.clear()
        ended = job.state in ENDED  # read before the state, so that the last event has the end
        found, latest = status_of(job), job.latest
        if previews and latest is not None and ENDINGS[PNG] in modality.formats:
            found["preview"] = await asyncio.to_thread(preview, modality, latest)
        yield f"data: {json.dumps(found)}\n\n"
        if ended:
            return
        await event.wait()


def preview(modality: Any, x: Any) -> str:
    """A picture of the state of a flow, as a data URL."""
    content = file_of(modality, modality.decode(x.cpu()), PNG)
    return "data:image/png;base64," + base64.b64encode(content).decode()
