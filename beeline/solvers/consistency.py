"""The step of a consistency function: to the data, and back to an earlier time with new noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.protocols.flows import NoiseProcess, SolverTraits
from beeline.core.ranges import Count, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Dynamics, expand_time
from beeline.paths.affine import AffinePath, Linear
from beeline.solvers.diffusions import White
from beeline.solvers.wrappers import SolverBase


@dataclass(frozen=True)
class ConsistencyStep(SolverBase):
    """The step of a flow map that is trained to end at the data.

    x1 = x + (1 - t) u(x, t, 1),  x_s = a(s) x1 + b(s) z,  z new standard normal noise
    With an ``encoder``, which gives mean and log scale of the noise of a datum, z is sampled from it: the sampler of
    variational noise coupling.
    Assumes a Gaussian source and the affine path of the flow.  The last step, to s = 1, adds no noise.
    Source: Song et al. 2023, "Consistency Models" (arXiv 2303.01469); the encoder: Silvestri et al. 2025 (arXiv
    2502.18197).

    >>> from beeline.core.declared import as_map
    >>> one = as_map(lambda x, t, s=None: torch.ones_like(x))
    >>> ConsistencyStep().step(one, torch.zeros(1, 1), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[1.]])
    """

    noise: NoiseProcess = field(default_factory=lambda: White(Rng(0)))
    path: AffinePath = field(default_factory=Linear)  # the flow's
    encoder: Any = None  # x1 [B,*S] -> mean and log scale [B,2,*S] of the noise; None is standard normal noise
    order: Count = 1

    @property
    def traits(self) -> SolverTraits:
        return SolverTraits(paths=(self.path,), stochastic=True)

    def with_seeds(self, seeds: Sequence[int], *names: int | str | float) -> Any:
        return replace(self, noise=self.noise.with_seeds(seeds, *names))

    def for_rows(self, start: int, end: int) -> Any:
        return replace(self, noise=self.noise.for_rows(start, end))

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        require(
            is_map(f),
            "ConsistencyStep got a velocity field; it jumps to the data in one evaluation: distil the field into a "
            "flow map, for example with 'beeline distill BUNDLE Consistency'",
        )
        require(
            bool((host_times(s) > host_times(t)).all()),
            "ConsistencyStep got a step towards the source; it is defined towards the data only: invert with the flow "
            "that the map was distilled from",
        )
        x1 = x + expand_time(1 - t, x) * f(x, t, s=torch.ones_like(s))
        if bool((host_times(s) == 1).all()):
            return x1, None
        z = self.noise(t, s, x)
        if self.encoder is not None:
            mean, log = self.encoder(x1).unbind(1)
            z = mean + log.exp() * z
        a, b, _, _ = (expand_time(c, x) for c in self.path.coefficients(s))
        return a * x1 + b * z, None
