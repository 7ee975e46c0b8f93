"""The routes of the studio: its page, what its models offer, streams of samples, and requests as code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from torch import Tensor

from beeline.data.images import Image
from beeline.data.latents.modality import LatentImage
from beeline.serving.backend import Handle
from beeline.serving.jobs import ENDED, State
from beeline.serving.requests import STEPS, SampleRequest
from beeline.serving.routes.waiting import Served, accept
from beeline.serving.studio import copies
from beeline.serving.studio.samplers import Trial, budgets, edits, fields
from beeline.serving.studio.views import drawn, view, widgets
from beeline.serving.works import Model, Result

FOLDER = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
FRAMES = 48  # states of one trajectory that are shown
FILES = {".csv": "text/csv", ".png": "image/png", ".npy": "application/x-npy", ".txt": "text/plain"}


def studio(places: Mapping[str, str], keys: bool = False, samples: int = 256) -> Callable[[Served], APIRouter]:
    """The router of the studio.

    ``places`` are the bundles of the models as they were named to the command line, from which commands and Python draw
    the same samples; ``keys`` says whether users need one, and ``samples`` is the most of a request.
    """

    def router(served: Served) -> APIRouter:
        made, backend = APIRouter(), served.backend
        files = {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir()) if path.suffix in TYPES}
        offered = {name: offers(model, samples) for name, model in backend.models.items()}

        @made.get("/", include_in_schema=False)
        async def page() -> Response:
            return static("index.html")

        @made.get("/studio/{name}", include_in_schema=False)
        async def part(name: str) -> Response:
            return static(name)

        def static(name: str) -> Response:
            if name not in files:
                return Response(status_code=404)
            return Response(files[name], media_type=TYPES[Path(name).suffix], headers=HEADERS)

        @made.get("/v1/controls")
        async def controls() -> dict[str, Any]:
            """What every model offers: how its data are shown, its conditions, and the samplers that fit."""
            return {"data": list(offered.values())}

        @made.post("/v1/stream")
        async def stream(request: Request, body: SampleRequest) -> StreamingResponse:
            """Draw samples: server-sent events of the states along the trajectory, and at last of the samples.

            The job ends when the client leaves.
            """
            job = await accept(served, request, body)
            return StreamingResponse(_events(served, job), media_type="text/event-stream")

        @made.post("/v1/copies")
        async def copied(request: Request, body: SampleRequest) -> dict[str, Any]:
            """The request as a command, as Python and as curl, and its number of evaluations."""
            model = backend.model(body.model)
            place, formats = places.get(model.name), model.bundle.modality.formats
            ending = next((one for one in FILES if one in formats), ".npz")
            sampler = model.bundle.sampler if body.sampler is None else body.sampler.changed(model.bundle.sampler)
            sent = body.model_dump(exclude_none=True, exclude_defaults=True)
            kind, written = (FILES[ending], ending) if ending in FILES else ("application/json", ".json")
            curl = copies.curl(sent, str(request.base_url), keys, kind, written)
            found = {"curl": curl, "evaluations": sampler.evaluations}
            if place is None or body.adapters:  # a command of one's own has neither watermarks nor amounts of adapters
                return found
            return {"command": copies.command(body, place, ending), "python": copies.python(body, place), **found}

        return made

    return router


def offers(model: Model, samples: int) -> dict[str, Any]:
    """What a model offers, as plain data."""
    with model.use() as replica:  # its weights may not be loaded
        bundle = replica.bundles[model.name]
        trial = Trial.of(bundle)
    edited = isinstance(bundle.modality, Image | LatentImage) and bundle.modality.conditions
    return {
        "id": model.name,
        "facts": bundle.facts(),
        "view": view(bundle.modality),
        "samples": samples,
        "formats": [one for one in bundle.modality.formats if one in FILES],
        "conditions": widgets(bundle.modality),
        "free": free(model),
        "sampler": fields(trial, STEPS),
        "budgets": budgets(trial),
        "edits": edits(trial) if edited else [],
    }


def free(model: Model) -> bool:
    """Whether the model draws without a condition."""
    try:
        model.bundle.condition(None, 1)
    except ValueError:
        return False
    return True


@dataclass(eq=False)
class Frames:
    """The states that a job reaches, at most ``FRAMES`` of them, from the thread that makes them to an event loop."""

    job: Handle
    found: deque[tuple[float, Tensor]] = field(default_factory=deque)
    last: float = -1.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self) -> None:
        """Keep the state that is reached, unless the one before is near."""
        t, x = self.job.progress, self.job.latest
        with self.lock:
            if x is not None and t - self.last >= 1 / FRAMES:
                self.found.append((t, x))
                self.last = t

    def take(self) -> list[tuple[float, Tensor]]:
        """The states since the last call."""
        with self.lock:
            taken = list(self.found)
            self.found.clear()
        return taken


async def _events(served: Served, job: Handle) -> AsyncIterator[str]:
    loop, event, frames = asyncio.get_running_loop(), asyncio.Event(), Frames(job)
    begin = loop.time()

    def changed() -> None:
        frames.note()
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(event.set)

    job.listen(changed)
    changed()
    await asyncio.to_thread(served.backend.watch, job)
    modality = served.backend.model(job.model).bundle.modality
    try:
        yield server_sent(id=job.id, state=job.state.value)
        while True:
            event.clear()
            ended = job.state in ENDED  # before the frames are taken, so that none is lost
            for t, x in frames.take():
                yield await asyncio.to_thread(_frame, modality, t, x)
            if ended:
                yield await asyncio.to_thread(_end, job, modality)
                return
            left = served.limit - (loop.time() - begin)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(event.wait(), max(left, 0.0))
            if not event.is_set():
                yield server_sent(
                    state="cancelled",
                    error=f"it took more than {served.limit:g} seconds; request fewer samples or steps",
                )
                return
    finally:
        if job.state not in ENDED:
            served.backend.cancel(job)


def _frame(modality: Any, t: float, x: Tensor) -> str:
    return server_sent(
        state=State.RUNNING.value, progress=round(t, 4), preview=drawn(modality, modality.decode(x.cpu()))
    )


def _end(job: Handle, modality: Any) -> str:
    result: Result = job.result or Result()
    if job.state is not State.DONE:
        bad = isinstance(job.error, ValueError)
        return server_sent(
            state=job.state.value, error=str(job.error) if bad else f"the job {job.id} ended without samples"
        )
    return server_sent(state=job.state.value, progress=1.0, samples=drawn(modality, result.raw), **result.facts)


def server_sent(**facts: Any) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(facts)}\n\n"
