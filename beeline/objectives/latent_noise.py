"""Regression of the latent noise of stochastic interpolants."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

import torch
from torch import nn

from beeline.core.protocols.flows import Coupling, TimeSampler
from beeline.core.protocols.objectives import ObjectiveSpec
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss, map_cond
from beeline.couplings.basic import Independent
from beeline.fields.flow import evaluate_field
from beeline.objectives.heads import second_network
from beeline.objectives.losses.basic import Distance, Weight, one, squared
from beeline.objectives.matching import Drop, FlowMatching, ObjectiveBase
from beeline.objectives.second_order import Helped
from beeline.paths.interpolant import Interpolant
from beeline.times.samplers import Uniform


@dataclass(frozen=True)
class LatentNoise(ObjectiveBase):
    """Regression of the latent noise of an interpolant: a denoiser, from which the score follows.

    E weight(t) distance(eta(x_t, t), z);  its minimum is E[z | x_t] = -g grad log p_t
    Assumes an Interpolant path.  Antithetic pairs z and -z reduce the variance.  With a Helped network, which recipes
    build, the field learns the velocity on the same states, and the helper is the denoiser.
    Source: Albergo, Boffi and Vanden-Eijnden 2023 (arXiv 2303.08797).

    >>> LatentNoise()(lambda x, t: x, Batch(torch.zeros(4, 2)), Rng(0)).per_sample.shape
    torch.Size([4])
    """

    path: Interpolant = field(default_factory=Interpolant)
    coupling: Coupling = field(default_factory=Independent)
    times: TimeSampler = field(default_factory=Uniform)
    weight: Weight = one
    distance: Distance = squared
    drop: Drop | None = None

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, path=self.path, coupling=self.coupling, drop=self.drop, wrap=self.wrap)

    def wrap(self, network: Any, batch: Batch, rng: Rng) -> nn.Module:
        """The network for the velocity, with a second one like it for the latent noise."""
        return Helped(network, second_network(network, rng))

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        plain = FlowMatching(self.path, self.coupling, weight=self.weight, distance=self.distance, drop=self.drop)
        batch = plain.pairs(batch, rng, field)
        assert batch.x0 is not None
        t = self.times(len(batch.x1), batch.x1, rng.fork("times"))
        z = rng.fork("path").normal(batch.x1)
        ends = [self.path.point_with_noise(batch.x0, batch.x1, t, sign * z) for sign in (1.0, -1.0)]
        (x, v), z, both = (torch.cat(part) for part in zip(*ends, strict=True)), torch.cat([z, -z]), torch.cat([t, t])
        twice = replace(batch, weight=None if batch.weight is None else torch.cat([batch.weight, batch.weight]))
        cond = map_cond(lambda leaf: torch.cat([leaf, leaf]), batch.cond)
        learned = {"velocity": (field.field, v), "latent": (field.helper, z)} if isinstance(field, Helped) else {}
        losses = {
            name: plain.reduce(evaluate_field(net, x, both, cond), wanted, both, twice)
            for name, (net, wanted) in (learned or {"error": (field, z)}).items()
        }
        value = torch.stack([loss.value for loss in losses.values()]).sum()
        each = torch.stack([loss.per_sample for loss in losses.values()]).sum(0).unflatten(0, (2, -1)).mean(0)
        terms = {name: loss.terms["error"] for name, loss in losses.items()}
        return Loss(value, {"loss": value.detach(), **terms}, each, t)
