"""What the server is: whether it answers, its models and its metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from beeline.serving.routes.waiting import Served
from beeline.serving.works import Model


def router(served: Served) -> APIRouter:
    """``/health``, ``/ready``, ``/metrics`` and ``/v1/models``."""
    made, backend = APIRouter(), served.backend

    @made.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server answers."""
        return {"status": "ok"}

    @made.get("/ready")
    async def ready() -> dict[str, Any]:
        """Whether the models are loaded."""
        return {"status": "ready", "models": list(backend.models)}

    @made.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        """Counts, times and sizes of batches, in the text form of Prometheus."""
        return "\n".join(backend.metrics()) + "\n"

    @made.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The models, with their conditions and the settings of their samplers."""
        return {"object": "list", "data": [described(model) for model in backend.models.values()]}

    return made


def described(model: Model) -> dict[str, Any]:
    """A model as plain data."""
    bundle = model.bundle
    return {
        "id": model.name,
        "object": "model",
        "facts": bundle.facts(),
        "conditions": bundle.modality.conditions,
        "shape": list(bundle.modality.shape),
        "steps": bundle.sampler.steps,
        "evaluations": bundle.sampler.evaluations,
        "weights": bundle.weights,
        "batch_sizes": model.host.sizes,
        "difference": model.host.difference,
        "adapters": model.host.names[1:],
    }
