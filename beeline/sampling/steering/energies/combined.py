"""Energies made of other energies: sums, schedules over time, smoothing."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.steering import Energy
from beeline.core.ranges import Count, NonNegative, Range, check_window, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, expand_time, map_cond
from beeline.sampling.guidance.rules.scales import ScaleShape
from beeline.sampling.steering.controller import energies_of


@dataclass(frozen=True)
class Sum:
    """A weighted sum of energies: the product of the densities that they stand for.

    E = sum_k w_k E_k

    >>> from beeline.sampling.steering.energies.squared import Near
    >>> total = Sum((Near((0.0,)), Near((2.0,))), weights=(1.0, 0.5))
    >>> total(torch.ones(1, 1), torch.ones(1))
    tensor([0.7500])
    """

    energies: tuple[Energy, ...]
    weights: tuple[Annotated[float, Range()], ...] = ()  # one for each energy; empty: all 1; a negative one repels

    def __post_init__(self) -> None:
        object.__setattr__(self, "energies", tuple(self.energies))
        object.__setattr__(self, "weights", tuple(self.weights))
        require(
            len(self.energies) > 0 and len(self.weights) in (0, len(self.energies)),
            f"Sum got {len(self.energies)} energies and {len(self.weights)} weights; every energy has one weight: give "
            "at least one energy, and as many weights or none",
        )

    def __call__(self, x1: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        weights = self.weights or (1.0,) * len(self.energies)
        parts = [w * energies_of(energy, x1, t, cond) for w, energy in zip(weights, self.energies, strict=True)]
        return torch.stack(parts).sum(0)


@dataclass(frozen=True)
class Scheduled:
    """An energy with a weight that depends on time.

    E(x1, t) = w(t) energy(x1, t),  w(t) = weight shape(t) inside the window, 0 outside;  shape 1 without one

    >>> from beeline.sampling.guidance.rules.scales import Rising
    >>> from beeline.sampling.steering.energies.squared import Near
    >>> Scheduled(Near((2.0,)), shape=Rising())(torch.ones(1, 1), torch.full((1,), 0.25))
    tensor([0.2500])
    """

    energy: Energy
    weight: NonNegative = 1.0
    shape: ScaleShape | None = None  # of mean 1 over time, such as Rising()
    window: tuple[float, float] = (0.0, 1.0)  # times with the energy, both ends included

    def __post_init__(self) -> None:
        check_window("Scheduled", self.window)

    def __call__(self, x1: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        low, high = self.window
        weight = torch.where((t >= low) & (t <= high), self.weight, 0.0)
        value = energies_of(self.energy, x1, t, cond)
        return (weight if self.shape is None else weight * self.shape(t)).to(value) * value


@dataclass(frozen=True)
class Smoothed:
    """The energy of a blurred density: the mean of the density over Gaussian noise on the datum.

    E(x1, t) = -log mean_j exp(-energy(x1 + deviation (1 - t) z_j)),  z_j ~ N(0, I)
    All samples and times share the noise, so that none depends on its batch.
    Biased for few samples: the mean of the logarithm is below the logarithm of the mean.
    Source: Song et al. 2023, "Loss-Guided Diffusion Models for Plug-and-Play Controllable Generation" (ICML 2023).

    >>> from beeline.sampling.steering.energies.squared import Near
    >>> float(Smoothed(Near((0.0,)), deviation=1.0, samples=4)(torch.zeros(1, 1), torch.ones(1)))
    0.0
    """

    energy: Energy
    deviation: NonNegative = 0.1  # at t = 0, in the units of the data; 0 is the energy itself
    samples: Count = 4
    rng: Rng = Rng(0)

    def __call__(self, x1: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        n, size = self.samples, len(x1)
        noise = self.rng.fork("smoothed").normal(x1.new_empty(n, *x1.shape[1:]))
        wide = expand_time(self.deviation * (1 - t), x1).to(x1)
        moved = (x1 + wide * noise[:, None]).flatten(0, 1)
        value = energies_of(self.energy, moved, torch.cat([t] * n), map_cond(lambda leaf: torch.cat([leaf] * n), cond))
        return math.log(n) - torch.logsumexp(-value.reshape(n, size), 0)
