"""Requests as JSON."""

from __future__ import annotations

import json

from beeline.core.errors import require
from beeline.serving.requests import Requested, SampleRequest
from beeline.serving.uses import EditRequest, ScoreRequest

REQUESTS = {kind.__name__: kind for kind in (SampleRequest, EditRequest, ScoreRequest)}


def packed(request: Requested) -> bytes:
    """A request as JSON."""
    fields = request.model_dump(by_alias=True, exclude_defaults=True)
    return json.dumps({"kind": type(request).__name__, "request": fields}).encode()


def unpacked(payload: bytes) -> Requested:
    """The request; ValueError for one of another version."""
    found = json.loads(payload)
    require(
        found["kind"] in REQUESTS, f"a request {found['kind']!r} came, and this version has none; update every worker"
    )
    return REQUESTS[found["kind"]].model_validate(found["request"])
