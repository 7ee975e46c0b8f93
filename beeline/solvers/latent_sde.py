"""SDEs on stochastic interpolants with latent noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.protocols.flows import SolverTraits
from beeline.core.ranges import Edge, NonNegative, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Dynamics, expand_time
from beeline.paths.interpolant import Interpolant
from beeline.solvers.diffusions import White
from beeline.solvers.wrappers import SolverBase


@dataclass(frozen=True)
class LatentSDE(SolverBase):
    """A step of the SDE of a stochastic interpolant; the distribution at each time is the same for every noise level.

    x_s = x + h (v - level eta / g) + sqrt(2 level h) n,  h = s - t > 0
    Assumes v and eta = E[z | x] trained on ``path``; times closer to an end than ``clip`` are clipped for the score.
    Source: Albergo, Boffi and Vanden-Eijnden 2023 (arXiv 2303.08797), forward SDE.

    >>> step = LatentSDE(Interpolant(), lambda x, t: x, 0.0).step
    >>> step(lambda x, t: torch.ones_like(x), torch.zeros(1, 1), torch.full((1,), 0.5), torch.ones(1), None)[0]
    tensor([[0.5000]])
    """

    path: Interpolant = field(default_factory=Interpolant)
    denoiser: Any = None  # eta(x, t), a field with its condition bound
    level: NonNegative = 1.0  # noise added per unit of time, at least 0; 0 is the ODE
    rng: Rng = field(default_factory=lambda: Rng(0))
    clip: Edge = 0.01  # least distance from both ends at which eta is divided by g, which is zero there
    seeds: tuple[int, ...] = ()  # of the noise, one per sample, or none
    order: int = field(default=1, init=False)

    @property
    def traits(self) -> SolverTraits:
        return SolverTraits(paths=(self.path,), stochastic=self.level > 0)

    def with_seeds(self, seeds: Sequence[int], *names: int | str | float) -> Any:
        return self._with(White(self.rng, self.seeds).with_seeds(seeds, *names))

    def for_rows(self, start: int, end: int) -> Any:
        return self._with(White(self.rng, self.seeds).for_rows(start, end))

    def _with(self, noise: White) -> LatentSDE:
        return replace(self, rng=noise.rng, seeds=noise.seeds)

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        h = expand_time(s - t, x)
        require(
            bool((host_times(s) > host_times(t)).all()),
            "LatentSDE got a step towards the source; its noise term is defined towards the data only: invert with an "
            "ODE solver",
        )
        drift = f(x, t)
        if self.level:
            require(
                self.denoiser is not None,
                f"LatentSDE got level={self.level:g} and no denoiser; the score is computed from eta = E[z | x]: train "
                "a denoiser with the objective LatentNoise, or set level=0",
            )
            inside = t.clamp(self.clip, 1 - self.clip)
            drift = drift + self.level * self.path.score(self.denoiser(x, inside), inside)
        if not self.level:
            return x + h * drift, None
        return x + h * drift + torch.sqrt(2 * self.level * h) * White(self.rng, self.seeds)(t, s, x), None
