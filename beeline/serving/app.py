"""The HTTP interface of a service."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException

from beeline import __version__
from beeline.core.errors import BeelineError, nearest
from beeline.serving.answers import JSON, accepted, as_json, file_of
from beeline.serving.jobs import ENDED, Job, QueueFullError, State
from beeline.serving.keys import Keys
from beeline.serving.metrics import text as metrics_text
from beeline.serving.requests import SampleRequest
from beeline.serving.service import Service

BODY = 2**20  # bytes of a request
AGAIN = 1  # seconds after which a client may try again


def failure(status: int, message: str, **headers: str) -> JSONResponse:
    """An error in the form that every error has."""
    return JSONResponse({"error": {"status": status, "message": message}}, status, headers=headers)


def app(service: Service, keys: Keys | None = None, limit: float = 300.0) -> FastAPI:
    """The application: ``keys`` are those of users who may draw; ``limit`` are the seconds of a request."""
    made = FastAPI(title="Beeline", version=__version__, description="Samples of flows.", docs_url="/docs")
    _errors(made)
    _guard(made, keys or Keys())
    _facts(made, service)
    _drawing(made, service, limit)
    _jobs(made, service)
    return made


def _errors(made: FastAPI) -> None:
    @made.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return failure(422, explained(error.errors()[0]))

    @made.exception_handler(BeelineError)
    async def refused(request: Request, error: BeelineError) -> Response:
        busy = isinstance(error, QueueFullError)
        return failure(429, str(error), **{"Retry-After": str(AGAIN)}) if busy else failure(422, str(error))

    @made.exception_handler(HTTPException)
    async def known(request: Request, error: HTTPException) -> Response:
        return failure(error.status_code, f"{request.method} {request.url.path}: {error.detail}")


def _guard(made: FastAPI, keys: Keys) -> None:
    @made.middleware("http")
    async def guard(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > BODY or "transfer-encoding" in request.headers:
            return failure(
                413, f"a body of {length} bytes was announced; a request has at most {BODY:,}: send its length"
            )
        user = keys.user(request.headers.get("authorization", ""))
        if user is None and request.url.path.startswith("/v1/"):
            return failure(401, "no known key was given; send the header Authorization: Bearer KEY")
        request.state.user = user or ""
        return await call(request)


def _facts(made: FastAPI, service: Service) -> None:
    @made.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server answers."""
        return {"status": "ok"}

    @made.get("/ready")
    async def ready() -> dict[str, Any]:
        """Whether the models are loaded."""
        return {"status": "ready", "models": list(service.models)}

    @made.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        """Counts, times and sizes of batches, in the text form of Prometheus."""
        return metrics_text(service)

    @made.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The models, with their conditions and the settings of their samplers."""
        return {"object": "list", "data": [_described(name, service) for name in service.models]}


def _described(name: str, service: Service) -> dict[str, Any]:
    model = service.models[name]
    bundle = model.bundle
    return {
        "id": name,
        "object": "model",
        "facts": bundle.facts(),
        "conditions": bundle.modality.conditions,
        "shape": list(bundle.modality.shape),
        "steps": bundle.sampler.steps,
        "evaluations": bundle.sampler.evaluations,
        "weights": bundle.weights,
        "batch_sizes": model.evaluations.sizes,
        "difference": model.difference,
    }


def _drawing(made: FastAPI, service: Service, limit: float) -> None:
    @made.post("/v1/sample")
    async def sample(request: Request, body: SampleRequest) -> Response:
        """Draw samples; JSON, or a file of the type that Accept names."""
        modality = service.model(body.model).bundle.modality
        kind = accepted(request.headers.get("accept", "*/*"), modality.formats)
        job = _submitted(service, request, body)
        await _ended(job, request, service, limit)
        return await asyncio.to_thread(_answer, job, modality, kind)


def _submitted(service: Service, request: Request, body: SampleRequest) -> Job:
    model = service.model(body.model)
    sampler = model.bundle.sampler if body.sampler is None else body.sampler.changed(model.bundle.sampler)
    drawing = service.drawing(body.model, body.drawn(), body.condition, sampler)
    return service.submit(drawing, request.state.user, body.priority)


async def _ended(job: Job, request: Request, service: Service, limit: float) -> None:
    """Wait for the end of a job; it is cancelled when its client leaves or the time has passed."""
    event = _event_of(job)
    for _ in range(math.ceil(limit)):
        if job.state in ENDED:
            return
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_until_ended(job, event), 1.0)
        if await request.is_disconnected():
            service.cancel(job)
    if job.state not in ENDED:
        service.cancel(job)
        raise HTTPException(504, f"it took more than {limit:g} seconds; request fewer samples or steps")


async def _until_ended(job: Job, event: asyncio.Event) -> None:
    while job.state not in ENDED:
        event.clear()
        await event.wait()


def _event_of(job: Job) -> asyncio.Event:
    """An event of this loop that is set after every change of a job."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    def changed() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(event.set)

    job.listen(changed)
    return event


def _answer(job: Job, modality: Any, kind: str) -> Response:
    if job.state is State.CANCELLED:
        return failure(409, f"the job {job.id} was cancelled; request it again")
    if job.state is State.FAILED:
        bad = isinstance(job.error, ValueError)
        return failure(422 if bad else 500, str(job.error) if bad else f"the job {job.id} failed; see the log")
    drawing = job.drawing
    if kind != JSON:
        return Response(file_of(modality, job.result, kind), media_type=kind)
    return JSONResponse(
        {
            "id": job.id,
            "model": drawing.model,
            "seeds": list(drawing.seeds),
            "condition": drawing.given,
            "evaluations": drawing.sampler.evaluations,
            "samples": as_json(job.result),
        }
    )


def _jobs(made: FastAPI, service: Service) -> None:
    @made.post("/v1/jobs", status_code=202)
    async def start(request: Request, body: SampleRequest) -> dict[str, Any]:
        """Draw samples without waiting; the answer has the id of the job."""
        return _status(_submitted(service, request, body))

    @made.get("/v1/jobs/{id}")
    async def status(id: str) -> dict[str, Any]:
        """What a job does."""
        return _status(service.job(id))

    @made.delete("/v1/jobs/{id}")
    async def cancel(id: str) -> dict[str, Any]:
        """Cancel a job."""
        job = service.job(id)
        service.cancel(job)
        return _status(job)

    @made.get("/v1/jobs/{id}/result")
    async def result(id: str, request: Request) -> Response:
        """The samples of a job that is done."""
        job = service.job(id)
        if job.state not in ENDED:
            return failure(409, f"the job {id} is {job.state.value}; wait until it is done")
        modality = service.models[job.drawing.model].bundle.modality
        kind = accepted(request.headers.get("accept", "*/*"), modality.formats)
        return await asyncio.to_thread(_answer, job, modality, kind)

    @made.get("/v1/jobs/{id}/events")
    async def events(id: str, previews: bool = False) -> StreamingResponse:
        """Server-sent events: the state of a job after every change, with previews as pictures if wanted."""
        return StreamingResponse(_events(service, service.job(id), previews), media_type="text/event-stream")


def _status(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "model": job.drawing.model,
        "state": job.state.value,
        "progress": round(job.progress, 4) if job.state is not State.DONE else 1.0,
        "error": None if job.error is None else str(job.error),
    }


async def _events(service: Service, job: Job, previews: bool) -> AsyncIterator[str]:
    event = _event_of(job)
    modality = service.models[job.drawing.model].bundle.modality
    while True:
        event.clear()
        ended = job.state in ENDED  # before the state is told, so that the last event tells the end
        found, latest = _status(job), job.latest
        if previews and latest is not None and ".png" in modality.formats:
            found["preview"] = await asyncio.to_thread(preview, modality, latest)
        yield f"data: {json.dumps(found)}\n\n"
        if ended:
            return
        await event.wait()


def preview(modality: Any, x: Any) -> str:
    """A picture of the state of a flow, as a data URL."""
    return (
        "data:image/png;base64," + base64.b64encode(file_of(modality, modality.decode(x.cpu()), "image/png")).decode()
    )


def explained(error: dict[str, Any]) -> str:
    """A mistake in a request in words: what was given, what was expected, and how to mend it."""
    where = ".".join(str(part) for part in error["loc"][1:]) or "the body"
    name, said = str(error["loc"][-1]), error["msg"][:1].lower() + error["msg"][1:]
    unknown = {"extra_forbidden"} & {error["type"]}
    if unknown:
        inner = len(error["loc"]) > 2
        known = SampleRequest.model_fields if not inner else {"steps", "solver", "schedule", "guidance_scale"}
        return f"the request has an unknown field {where}; {nearest(name, known)}"
    given = error.get("input")
    shown = "" if isinstance(given, dict) else f" is {json.dumps(given, default=str)[:80]}"
    return f"{where}{shown}, which is not accepted: {said}; see /docs for what a request holds"
