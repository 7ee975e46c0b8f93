"""One energy of several."""

from __future__ import annotations

from dataclasses import field

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.steering import Energy
from beeline.core.ranges import NonNegative, dataclass
from beeline.core.types import Cond
from beeline.sampling.steering.controller import energies_of


@dataclass(frozen=True)
class Chebyshev:
    """The largest of several weighted energies, whose minima reach all points of a Pareto front.

    E = max_m w_m (E_m - ideal_m)
    A weighted sum has no minimum on the concave parts of a front.  The gradient is that of the largest term alone.
    Source: Jain et al. 2023, "Multi-Objective GFlowNets" (arXiv 2210.12765), weighted Chebyshev scalarisation.

    >>> both = Chebyshev((lambda x1, t, cond: x1[:, 0], lambda x1, t, cond: x1[:, 1]), weights=(1.0, 2.0))
    >>> both(torch.ones(1, 2), torch.ones(1))
    tensor([2.])
    """

    energies: tuple[Energy, ...]
    weights: tuple[NonNegative, ...]
    ideal: tuple[float, ...] = field(default=())  # the least value of every energy; zeros if empty

    def __post_init__(self) -> None:
        n = len(self.energies)
        require(
            n >= 1 and len(self.weights) == n and len(self.ideal) in (0, n),
            f"Chebyshev got {n} energies, {len(self.weights)} weights and {len(self.ideal)} ideal values; every energy "
            "has one of each: give as many, or no ideal values",
        )

    def __call__(self, x1: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        ideal = self.ideal or (0.0,) * len(self.energies)
        terms = [
            weight * (energies_of(energy, x1, t, cond) - least)
            for energy, weight, least in zip(self.energies, self.weights, ideal, strict=True)
        ]
        return torch.stack(terms).max(0).values
