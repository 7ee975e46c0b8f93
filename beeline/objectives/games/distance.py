"""The distance of samples from data, as a held-out loss of methods whose own loss says nothing."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.modes import full_precision, wide
from beeline.core.protocols.objectives import ObjectiveSpec
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss
from beeline.fields.flow import Flow, is_map
from beeline.objectives.matching import ObjectiveBase
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import FlowMapStep


@dataclass(frozen=True)
class SampleDistance(ObjectiveBase):
    """The energy distance of a student's samples from held-out data: a loss to compare and to stop by, not to train.

    2 E|x - y| - E|x - x'| - E|y - y'|,  x, x' samples with the conditions of the data,  y, y' data
    Zero for equal distributions.  It has no gradient.
    Source: Szekely and Rizzo 2013, "Energy statistics" (doi 10.1016/j.jspi.2013.03.018).

    >>> distance = SampleDistance(Flow(None), Sampler(1))
    >>> distance(lambda x, t: 0 * x, Batch(Rng(0).normal(torch.empty(9, 2))), Rng(1)).per_sample.shape
    torch.Size([9])
    """

    flow: Flow  # of the field, which replaces its own
    sampler: Sampler = field(default_factory=Sampler)

    @property
    def spec(self) -> ObjectiveSpec:
        return ObjectiveSpec(path=self.flow.path, baselines=False)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        flow = replace(self.flow, field=field, independent=False, trained=None)
        sampler = replace(self.sampler, solver=FlowMapStep()) if is_map(field) else self.sampler
        x0 = self.flow.source.sample(batch.x1, rng.fork("source"))
        with torch.no_grad(), full_precision(batch.x1.device):
            made = wide(sampler(flow, x0, batch.cond))
            real = wide(batch.x1)
            per_sample = 2 * distances(made, real).mean(1) - own(made) - own(real)
        return Loss(per_sample.mean(), {"loss": per_sample.mean()}, per_sample, torch.ones_like(per_sample))


def distances(x: Tensor, y: Tensor) -> Tensor:
    """[n,m] Euclidean distances of two sets of samples."""
    return torch.cdist(x.flatten(1), y.flatten(1))


def own(x: Tensor) -> Tensor:
    """[n]: the mean distance of every sample from the others."""
    return distances(x, x).sum(1) / max(1, len(x) - 1)
