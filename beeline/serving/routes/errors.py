"""Errors in one form."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from beeline.core.errors import BeelineError, nearest
from beeline.serving.jobs import BusyError
from beeline.serving.requests import SamplerRequest

UNKNOWN = {"extra_forbidden"}  # what pydantic calls a field that a request does not have


def failure(status: int, message: str, **headers: str) -> JSONResponse:
    """An error in the form that every error has."""
    return JSONResponse({"error": {"status": status, "message": message}}, status, headers=headers)


def add_errors(made: FastAPI) -> None:
    """Give every error its form."""

    @made.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return failure(422, explained(error.errors()[0], fields(made, request)))

    @made.exception_handler(BeelineError)
    async def refused(request: Request, error: BeelineError) -> Response:
        if isinstance(error, BusyError):
            return failure(error.status, str(error), **{"Retry-After": str(math.ceil(error.seconds))})
        return failure(422, str(error))

    @made.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return failure(500, f"{request.method} {request.url.path} failed; see the log of the server")

    @made.exception_handler(HTTPException)
    async def known(request: Request, error: HTTPException) -> Response:
        return failure(error.status_code, f"{request.method} {request.url.path}: {error.detail}")


def fields(made: FastAPI, request: Request) -> list[str]:
    """The fields of the body of a request, by the description of the interface."""
    described: Mapping[str, Any] = made.openapi()
    operation = described["paths"].get(request.url.path, {}).get(request.method.lower(), {})
    content = operation.get("requestBody", {}).get("content", {})
    for form in content.values():
        name = form.get("schema", {}).get("$ref", "").rpartition("/")[2]
        return list(described["components"]["schemas"].get(name, {}).get("properties", {}))
    return []


def explained(error: Mapping[str, Any], known: list[str]) -> str:
    """A mistake in a request in words: what was given, what was expected, and how to mend it."""
    where = ".".join(str(part) for part in error["loc"][1:]) or "the body"
    name, said = str(error["loc"][-1]), error["msg"][:1].lower() + error["msg"][1:]
    if error["type"] in UNKNOWN:
        inner = len(error["loc"]) > 2  # the only object with fields of its own in a request is a sampler
        hint = nearest(name, SamplerRequest.model_fields if inner else known)
        return f"the request has an unknown field {where}; {hint}"
    value = error.get("input")
    shown = "" if isinstance(value, dict) else f" is {json.dumps(value, default=str)[:80]}"
    return f"{where}{shown}, which is not accepted: {said}; see /docs for what a request holds"
