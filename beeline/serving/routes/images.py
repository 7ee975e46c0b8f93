"""Pictures in the form of the OpenAI interface."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from beeline.core.errors import require
from beeline.serving.answers import ENDINGS, PNG, png
from beeline.serving.backend import Handle
from beeline.serving.requests import SampleRequest, SamplerRequest
from beeline.serving.routes.waiting import Served, done, stated, unfinished
from beeline.serving.uses import EditRequest
from beeline.serving.works import Result

MOST = 10  # pictures of a request, as there


class GenerationRequest(BaseModel):
    """Pictures for a prompt; fields that are not in the OpenAI interface are seed and sampler."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"prompt": "3", "n": 2, "seed": 7}]})

    prompt: Annotated[str, Field(max_length=4000, description="a caption, or the name of a class; empty for none")]
    model: Annotated[str, Field(max_length=200)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST)] = 1
    size: Annotated[str, Field(max_length=20, description="WIDTHxHEIGHT of the model, or auto")] = "auto"
    response_format: Literal["b64_json"] = "b64_json"
    output_format: Literal["png"] = "png"
    user: Annotated[str, Field(max_length=200, description="of the client; it is not stored")] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**62)] | None = None
    sampler: SamplerRequest | None = None


def router(served: Served) -> APIRouter:
    """``/v1/images/generations`` and ``/v1/images/edits``."""
    made = APIRouter()

    @made.post("/v1/images/generations")
    async def generations(request: Request, body: GenerationRequest) -> Response:
        """Draw pictures for a prompt."""
        modality = served.backend.model(body.model).bundle.modality
        check(modality, body.size)
        job = await done(
            served,
            request,
            SampleRequest(
                model=body.model, n=body.n, seed=body.seed, condition=body.prompt or None, sampler=body.sampler
            ),
        )
        return await asyncio.to_thread(pictures, served, job, modality)

    @made.post("/v1/images/edits")
    async def edits(
        request: Request,
        image: Annotated[UploadFile, File(description="PNG or JPEG of the size of the model")],
        prompt: Annotated[str, Form(max_length=4000, description="the new caption or class")],
        mask: Annotated[
            UploadFile | None, File(description="white, or transparent, where the picture may change")
        ] = None,
        model: Annotated[str | None, Form(max_length=200)] = None,
        size: Annotated[str, Form(max_length=20)] = "auto",
        response_format: Annotated[Literal["b64_json"], Form()] = "b64_json",
        source: Annotated[str | None, Form(max_length=4000, description="the caption or class of the image")] = None,
        method: Annotated[str, Form(max_length=200, description="a component of 'beeline list edits'")] = "FlowEdit",
        seed: Annotated[int, Form(ge=0, lt=2**62)] = 0,
    ) -> Response:
        """Change a picture to fit a prompt, where a mask allows it."""
        modality = served.backend.model(model).bundle.modality
        check(modality, size)
        content, masked = await image.read(), None if mask is None else await mask.read()
        body = EditRequest(
            model=model,
            data=base64.b64encode(content).decode(),
            mask=None if masked is None else base64.b64encode(masked).decode(),
            to=prompt,
            cond=source,
            method=method,
            seed=seed,
        )
        job = await done(served, request, body)
        return await asyncio.to_thread(pictures, served, job, modality)

    return made


def check(modality: Any, size: str) -> None:
    """Refuse models of other data, and sizes that a model does not have."""
    require(
        ENDINGS[PNG] in modality.formats,
        f"this model draws {type(modality).__name__}, which are no pictures; use /v1/sample and /v1/edit",
    )
    own = size_of(modality)
    require(size in ("auto", own), f"size is {size!r}, and this model draws {own}; leave it out, or give {own}")


def pictures(served: Served, job: Handle, modality: Any) -> Response:
    """The result of a job, a picture for every datum."""
    failed = unfinished(job)
    if failed is not None:
        return failed
    result: Result = job.result or Result()
    seeds, pixels = result.facts.get("seeds", []), result.raw.pixels
    data = [
        {"b64_json": base64.b64encode(stated(served, job, png(pixels[k]))).decode()}
        | ({"seed": seeds[k]} if seeds else {})
        for k in range(len(pixels))
    ]
    return JSONResponse({"created": int(time.time()), "data": data, "output_format": "png", "size": size_of(modality)})


def size_of(modality: Any) -> str:
    """The size of the pictures of a model, WIDTHxHEIGHT."""
    return f"{modality.shape[-1]}x{modality.shape[-2]}"
