"""Loss weights and time densities that adapt during training, so that no time dominates the loss or its variance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Declaring
from beeline.core.errors import require
from beeline.core.protocols.flows import TimeSampler
from beeline.core.protocols.objectives import ObjectiveSpec, heldout_of
from beeline.core.ranges import Count, NonNegative, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss
from beeline.objectives.matching import FlowMatching, ObjectiveWrapper
from beeline.times.composed import Binned
from beeline.times.samplers import Uniform


class _Weighing(ObjectiveWrapper):
    """Base of learned weights over time: a wrapper with a network of its own, which the held-out loss leaves out."""

    name: str  # of the network

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, networks=self.networks)

    def heldout(self, times: TimeSampler) -> Any:
        return heldout_of(self.objective, times)

    def networks(self) -> dict[str, nn.Module]:
        """The network that is trained beside the field."""
        raise NotImplementedError

    def _check(self) -> None:
        names = {f.name for f in dataclasses.fields(self.objective)} if dataclasses.is_dataclass(self.objective) else ()
        require(
            "weight" in names,
            f"{type(self).__name__} multiplies the weight over time, and {type(self.objective).__name__} has no "
            "'weight'; wrap an objective with that field, such as FlowMatching()",
        )

    def _split(self, networks: Any) -> tuple[Any, Any]:
        """The field (or fields), and the network of this objective."""
        if not isinstance(networks, Mapping):
            return networks, None
        rest = {k: v for k, v in networks.items() if k != self.name}
        return (next(iter(rest.values())) if len(rest) == 1 else rest), networks.get(self.name)

    def _weighted(self, weight: Callable[[Tensor], Tensor]) -> Any:
        inner = self.objective.weight
        return replace(self.objective, weight=lambda t: inner(t) * weight(t))


class TimeNet(nn.Module):
    """A scalar function of time: a linear layer on Fourier features, initialised to zero."""

    waves: Tensor
    phases: Tensor

    def __init__(self, features: int = 64):
        super().__init__()
        self.register_buffer("waves", Rng(0).fork("waves").normal(torch.empty(features)) * 4)
        self.register_buffer("phases", Rng(0).fork("phases").uniform(features, torch.empty(0)))
        self.out = nn.Linear(features, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, t: Tensor) -> Tensor:
        wide = torch.cos(2 * math.pi * (t[..., None].float() * self.waves + self.phases)) * math.sqrt(2)
        value: Tensor = self.out(wide)[..., 0]
        return value


@dataclass(frozen=True)
class Uncertain(_Weighing):
    """Uncertainty weighting: the loss is divided by a learned variance exp(u(t)).

    E[ w(t) d / exp(u(t)) + u(t) ], with its minimum over u at exp(u(t)) = E[w(t) d | t]: all times have equal weight
    Assumes an objective with a ``weight``.  The minimum over the field is unchanged.
    Source: Karras et al. 2024, EDM2 (arXiv 2312.02696); Kendall, Gal and Cipolla 2018 (arXiv 1705.07115).

    >>> list(Uncertain().spec.networks())
    ['uncertainty']
    """

    objective: Any = field(default_factory=FlowMatching)
    features: Count = 64  # Fourier features of u
    name = "uncertainty"

    def __post_init__(self) -> None:
        self._check()

    def networks(self) -> dict[str, nn.Module]:
        """The network that learns beside the field."""
        return {self.name: TimeNet(self.features)}

    def __call__(self, networks: Any, batch: Batch, rng: Rng) -> Loss:
        fields, own = self._split(networks)
        if own is None:  # without the learned network
            return self.objective(fields, batch, rng)  # type: ignore[no-any-return]
        loss = self._weighted(lambda t: torch.exp(-own(t)).to(t.dtype))(fields, batch, rng)
        u = own(loss.t).mean()
        return loss._replace(value=loss.value + u, terms=loss.terms | {"log_variance": u.detach()})


class BinMeans(Declaring):
    """Running mean losses by time bin, updated after every step."""

    mean: Tensor
    norm: Tensor
    sums: Tensor

    def __init__(self, bins: int, half_life: float):
        super().__init__()
        self.half_life = half_life
        self.register_buffer("mean", torch.zeros(bins))
        self.register_buffer("norm", torch.zeros(bins))
        self.register_buffer("sums", torch.zeros(2, bins), persistent=False)

    def weight(self, t: Tensor, power: float) -> Tensor:
        """The weight of every time, 1 on average over bins; bins without losses have the mean of the others."""
        known = self.mean / self.norm.clamp(min=1e-12)
        fallback = known[self.norm > 0].mean() if bool((self.norm > 0).any()) else known.new_ones(())
        level = torch.where(self.norm > 0, known, fallback).clamp(min=1e-12)
        w = level ** (-power)
        return (w / w.mean())[self.bin(t)].to(t.dtype)

    def bin(self, t: Tensor) -> Tensor:
        n = len(self.mean)
        return (t * n).long().clamp(0, n - 1)

    def density(self, floor: float) -> Binned:
        """A density proportional to the root of the means, mixed with a share ``floor`` of the uniform one.

        It is uniform before the first losses.
        """
        known = (self.mean / self.norm.clamp(min=1e-12)).clamp(min=0).double().sqrt()
        fallback = known[self.norm > 0].mean() if bool((self.norm > 0).any()) else known.new_ones(())
        level = torch.where(self.norm > 0, known, fallback).clamp(min=1e-30)
        return Binned(tuple(((1 - floor) * level / level.sum() + floor / len(level)).tolist()))

    @torch.no_grad()
    def add(self, t: Tensor, errors: Tensor) -> None:
        """Add the losses of a microbatch."""
        at = self.bin(t.flatten())
        self.sums[0].index_add_(0, at, errors.flatten().to(self.sums))
        self.sums[1].index_add_(0, at, torch.ones_like(at, dtype=self.sums.dtype))

    @torch.no_grad()
    def settle(self, total: Callable[[Tensor], Tensor]) -> None:
        """Update the running means with the losses of this step from all processes."""
        sums, count = total(self.sums).clone()
        self.sums.zero_()
        keep = 0.5 ** (1 / self.half_life)
        found = count > 0
        self.mean.copy_(torch.where(found, keep * self.mean + (1 - keep) * sums / count.clamp(min=1), self.mean))
        self.norm.copy_(torch.where(found, keep * self.norm + (1 - keep), self.norm))


@dataclass(frozen=True)
class Balanced(_Weighing):
    """Every time bin is weighted by the inverse of its running mean loss.

    weight(t) = c mean_loss(bin of t)^(-power), with mean weight 1 over bins
    Assumes an objective with a ``weight``.  The minimum over the field is unchanged.
    Source: Hang et al. 2023 (arXiv 2303.09556) for the aim; running means instead of the signal-to-noise ratio.

    >>> list(Balanced(bins=10).spec.networks())
    ['balance']
    """

    objective: Any = field(default_factory=FlowMatching)
    bins: int = 20
    power: NonNegative = 1.0  # 0 does not weight, 1 gives all bins equal weight
    half_life: float = 100.0  # steps of the running mean
    name = "balance"

    def __post_init__(self) -> None:
        self._check()
        require(
            self.bins >= 1 and self.half_life > 0,
            f"Balanced got bins={self.bins}, half_life={self.half_life}; there is no running mean without bins and a "
            "half-life: give at least 1 bin and a half-life above 0",
        )

    def networks(self) -> dict[str, nn.Module]:
        """The running means of the losses; it has no parameters."""
        return {self.name: BinMeans(self.bins, self.half_life)}

    def __call__(self, networks: Any, batch: Batch, rng: Rng) -> Loss:
        fields, own = self._split(networks)
        if own is None:
            return self.objective(fields, batch, rng)  # type: ignore[no-any-return]
        loss: Loss = self._weighted(lambda t: own.weight(t, self.power))(fields, batch, rng)
        w = own.weight(loss.t, self.power)
        if loss.t.ndim > 1:  # frames: the loss of a datum is assigned to its mean time
            own.add(loss.t.mean(1), loss.per_sample / w.mean(1))
        else:
            own.add(loss.t, loss.per_sample / w)
        return loss


@dataclass(frozen=True)
class Importance(_Weighing):
    """Importance sampling of times by their loss, reweighted to the same mean with less variance.

    p(t) ~ sqrt(mean squared loss of the bin of t), a share ``floor`` even;  E_{t ~ p}[loss / p(t)] = E_{t ~ U}[loss]
    Assumes an objective with a ``weight`` and uniform times.
    Source: Nichol and Dhariwal 2021 (arXiv 2102.09672), importance sampling by a history of losses.

    >>> list(Importance(bins=10).spec.networks())
    ['importance']
    """

    objective: Any = field(default_factory=FlowMatching)
    bins: int = 20
    floor: float = 0.1  # share of uniform times, above 0 to 1; without it a bin could be never sampled again
    half_life: float = 100.0  # steps of the running mean
    name = "importance"

    def __post_init__(self) -> None:
        self._check()
        require(
            self.bins >= 1 and self.half_life > 0 and 0 < self.floor <= 1,
            f"Importance got bins={self.bins}, floor={self.floor}, half_life={self.half_life}; every bin has to be "
            "sampled now and then: give at least 1 bin, a floor above 0 and up to 1, and a half-life above 0",
        )
        require(
            isinstance(self.objective.times, Uniform),
            f"Importance was given an objective with {type(self.objective.times).__name__} times; it learns the "
            "density of the times itself: use times=Uniform(), and set weight= instead",
        )

    def networks(self) -> dict[str, nn.Module]:
        """The running means of the squared losses; it has no parameters."""
        return {self.name: BinMeans(self.bins, self.half_life)}

    def __call__(self, networks: Any, batch: Batch, rng: Rng) -> Loss:
        fields, own = self._split(networks)
        if own is None:
            return self.objective(fields, batch, rng)  # type: ignore[no-any-return]
        times = own.density(self.floor)
        weighted: Any = self._weighted(lambda t: (-times.log_prob(t)).exp())
        loss: Loss = replace(weighted, times=times)(fields, batch, rng)
        own.add(loss.t, (loss.per_sample * times.log_prob(loss.t).exp()) ** 2)
        return loss
