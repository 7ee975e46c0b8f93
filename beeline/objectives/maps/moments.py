"""Inductive moment matching: distributions of two jumps to one time are compared by a kernel."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.modes import eval_mode
from beeline.core.protocols.flows import Coupling, TimeSampler
from beeline.core.protocols.objectives import ObjectiveSpec
from beeline.core.ranges import Count, Edge, Positive, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss, expand_time
from beeline.couplings.basic import Independent
from beeline.fields.flow import bind
from beeline.objectives.matching import Drop, FlowMatching, ObjectiveBase
from beeline.paths.affine import Linear
from beeline.solvers.runge_kutta import FlowMapStep
from beeline.times.samplers import Uniform


@dataclass(frozen=True)
class InductiveMoments(ObjectiveBase):
    """Inductive moment matching: jumps to s from two near times have the same distribution.

    w(t) MMD^2 over groups of particles of  y = x_t + (s - t) u(x_t, t, s)  and  y' = sg[x_r + (s - r) u(x_r, r, s)],
    t < r <= s with (1 - r)/r = (1 - t)/t - 160 / 2^gap, x_t and x_r of one pair, groups of one (t, r, s)
    kernel exp(-|a - b| / (D (s - t)));  w(t) = sigmoid(b - l) / (t (1 - t)) t / (t^2 + (1-t)^2), l = 2 log(t / (1 - t))
    It needs no derivative, no velocity and no teacher; groups of one particle are a consistency loss.
    Assumes the straight path, and a batch of several groups.
    Source: Zhou, Ermon and Song 2025, "Inductive Moment Matching" (arXiv 2503.07565).

    >>> from beeline.core.declared import as_map
    >>> net = as_map(lambda x, t, cond=None, s=None: -x)
    >>> InductiveMoments()(net, Batch(torch.zeros(8, 2)), Rng(0)).per_sample.shape
    torch.Size([8])
    """

    coupling: Coupling = field(default_factory=Independent)
    times: TimeSampler = field(default_factory=Uniform)  # starts
    group: Count = 4  # particles
    gap: Positive = 12.0  # between the two starts, as a power of 2 of the range of noise levels
    bias: float = 4.0  # b of the weight
    clip: Edge = 0.006  # least distance of a start from both ends
    drop: Drop | None = None

    @property
    def spec(self) -> ObjectiveSpec:
        declared = replace(super().spec, coupling=self.coupling, drop=self.drop, solver=FlowMapStep())
        return replace(declared, span=True, baselines=False)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        batch = FlowMatching(coupling=self.coupling, drop=self.drop).pairs(batch, rng, field)
        n, size = len(batch.x1), min(self.group, len(batch.x1))
        groups = n // size
        t, r, s = (part.repeat_interleave(size)[:n] for part in self.starts(-(-n // size), batch.x1, rng))
        assert batch.x0 is not None
        f, path = bind(field, batch.cond), Linear()
        x = path.point(batch.x0, batch.x1, t).x
        y = x + expand_time(s - t, x) * f(x, t, s=s)
        with eval_mode(field):
            nearer = path.point(batch.x0, batch.x1, r).x
            other = nearer + expand_time(s - r, x) * f(nearer, r, s=s)
        width = (s - t).clamp(min=1e-3)[: groups * size].reshape(groups, size)[:, :1, None]
        first, second = (part.flatten(1)[: groups * size].reshape(groups, size, -1) for part in (y, other.detach()))
        each = self.weight(t)[: groups * size] * discrepancy(first, second, width).flatten()
        if batch.weight is not None:
            each = each * batch.weight[: groups * size]
        value = each.mean()
        rest = value.detach().expand(n - groups * size)  # particles that fill no group
        return Loss(value, {"loss": value.detach()}, torch.cat([each.detach(), rest]), t)

    def starts(self, groups: int, like: Tensor, rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """The times t < r <= s of the groups."""
        t = self.times(groups, like, rng.fork("times")).clamp(self.clip, 1 - self.clip)
        s = t + (1 - t) * rng.fork("ends").uniform(groups, like)
        most = (1 - self.clip) / self.clip
        noise = torch.maximum((1 - t) / t - most / 2**self.gap, (1 - s) / s)
        return t, 1 / (1 + noise), s

    def weight(self, t: Tensor) -> Tensor:
        """The weight over starts, which times a log-SNR by the derivative of it."""
        snr = 2 * torch.log(t / (1 - t))
        return torch.sigmoid(self.bias - snr) / (t * (1 - t)) * t / (t**2 + (1 - t) ** 2)


def discrepancy(y: Tensor, other: Tensor, width: Tensor) -> Tensor:
    """[G,M]: the terms of the particles of the squared maximum mean discrepancy of two sets [G,M,D].

    k(a, b) = exp(-|a - b| / (D width)),  with the pairs of a particle with itself
    """

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        square = (a[:, :, None] - b[:, None]).square().sum(-1)
        return torch.exp(-square.clamp(min=1e-16).sqrt() / (a.shape[-1] * width))

    return (kernel(y, y) + kernel(other, other) - kernel(y, other) - kernel(other, y)).mean(2)
