"""Requests that use a flow for more than samples: edits of data, and their likelihoods."""

from __future__ import annotations

from functools import singledispatch
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from beeline.core.errors import require
from beeline.core.rng import Rng
from beeline.core.types import map_cond
from beeline.data.images import Image
from beeline.density.likelihood import Hutchinson, bits_per_dimension, log_prob
from beeline.runs.bundle import Bundle
from beeline.runs.editing.edit import Settings, edit_given, editable
from beeline.runs.editing.inputs import Given, inputs
from beeline.runs.scoring import has_trajectories
from beeline.sampling.editing.regions import GivenRegion
from beeline.serving.given import given, marked, opened, raw_bytes
from beeline.serving.requests import Models, Requested, SamplerRequest, component
from beeline.serving.works import Result, Work

WIDE = 64  # numbers of a datum up to which a divergence is exact


class WithData(Requested):
    """A request that holds data."""

    data: Annotated[Any, Field(description="a picture in base64, rows, texts or numbers, or a list of them")]

    @property
    def rows(self) -> int:
        """The number of data, of a list its length."""
        return max(1, len(self.data)) if isinstance(self.data, list) else 1


class EditRequest(WithData):
    """Data that are changed from one condition to another."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"data": "iVBORw0KGgo...", "from": {"label": 3}, "to": {"label": 8}}]},
        populate_by_name=True,
    )

    to: Annotated[Any, Field(description="the new condition")]
    cond: Annotated[Any, Field(alias="from", description="the condition of the data; null if it is not known")] = None
    method: Annotated[str, Field(max_length=200, description="a component of 'beeline list edits'")] = "FlowEdit"
    mask: (
        Annotated[str, Field(description="a picture in base64: white, or transparent, where the data may change")]
        | None
    ) = None
    preserve: (
        Annotated[float, Field(gt=0, description="largest mean distance of what is kept, in the range of pixels")]
        | None
    ) = None
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    sampler: SamplerRequest | None = None

    @property
    def conditions(self) -> Any:
        """The old condition and the new one."""
        return {"from": self.cond, "to": self.to}

    def work(self, service: Models) -> Work:
        """The edit, checked as far as it can be without drawing."""
        bundle = service.model(self.model).bundle
        modality = editable(bundle)
        require(self.to is not None, f"to is null; give a new condition, one of {sorted(modality.conditions)}")
        region = None if self.mask is None else GivenRegion(torch.tensor(self._mask()).float())
        usual = bundle.sampler
        sampler = usual if self.sampler is None else self.sampler.changed(usual)
        method = component(self.method, "edits")
        found = inputs(modality, bundle, given(modality, self.data), self.to)
        new, old = opened(modality, self.to), opened(modality, self.cond)
        for value in (new, old):
            bundle.condition(value, len(found.x))
        how = Settings(region, self.preserve, self.seed, sampler)

        def call(alone: Bundle) -> Result:
            made = edit_given(alone, method, found, old, new, how)
            return Result(made.samples, {"condition": self.to, **made.summary})

        return service.task(self.model, len(found.x), call)

    def _mask(self) -> Any:
        assert self.mask is not None
        return marked(raw_bytes(self.mask, "the mask"), "the mask")


class ScoreRequest(WithData):
    """Likelihoods of data."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"data": "iVBORw0KGgo...", "condition": {"label": 3}, "steps": 20}]}
    )

    condition: Any = None
    steps: Annotated[int, Field(ge=1, le=200, description="of the integration from the data to the noise")] = 20
    probes: Annotated[int, Field(ge=1, le=64, description="of the estimate of divergences, for large data")] = 4
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0

    @property
    def conditions(self) -> Any:
        """The condition."""
        return self.condition

    def work(self, service: Models) -> Work:
        """The likelihoods, checked as far as they can be without a run."""
        bundle = service.model(self.model).bundle
        require(
            has_trajectories(bundle) and bundle.flow.source.gaussian,
            "this model has no likelihood: it is a student that jumps to the data, or starts from no noise; use its "
            "teacher",
        )
        found = inputs(bundle.modality, bundle, given(bundle.modality, self.data))
        condition = opened(bundle.modality, self.condition)
        bundle.condition(condition, len(found.x))

        def call(alone: Bundle) -> Result:
            facts = likelihoods(alone, found, condition, self.steps, self.probes, Rng(self.seed))
            return Result(None, {**facts, "condition": self.condition})

        return service.task(self.model, len(found.x), call)


def likelihoods(bundle: Bundle, data: Given, condition: Any, steps: int, probes: int, rng: Rng) -> dict[str, Any]:
    """log p(x) in nats [N] of encoded data, and bits per dimension [N] where the data are whole numbers."""
    x = filled(bundle.modality, data.x, rng.fork("levels")).to(bundle.device)
    cond = map_cond(lambda leaf: leaf.to(bundle.device), bundle.condition(condition, len(x)))
    measure = None if x[0].numel() <= WIDE else Hutchinson(rng.fork("probes"), probes)
    found = log_prob(bundle.flow, x, cond, steps=steps, divergence=measure).cpu()
    return {"log_prob": found.tolist(), **in_bits(bundle.modality, found, x[0].numel())}


@singledispatch
def filled(modality: Any, x: Tensor, rng: Rng) -> Tensor:
    """Encoded data [N,*S] whose density is defined: here as they are."""
    return x


@filled.register(Image)
def _of_levels(modality: Image, x: Tensor, rng: Rng) -> Tensor:
    """Pixels that are uniform between their level and the next one."""
    return x + (rng.fill(x) - 0.5) * (2 / modality.levels)


@singledispatch
def in_bits(modality: Any, log_p: Tensor, size: int) -> dict[str, Any]:
    """Bits per dimension of data of whole numbers; nothing for others."""
    return {}


@in_bits.register(Image)
def _of_pixels(modality: Image, log_p: Tensor, size: int) -> dict[str, Any]:
    return {"bits_per_dimension": bits_per_dimension(log_p, size, modality.levels).tolist()}
