"""Where a jump is divided in two."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.progress import progress
from beeline.core.ranges import Count, NonNegative, Positive, Range, dataclass
from beeline.core.rng import Rng

Part = Annotated[float, Range(above=0, most=1)]


@dataclass(frozen=True)
class Between:
    """A uniform share of the jump.

    a ~ U(low, high),  m = t + a (s - t)
    Equal bounds give a constant share, such as the halves of shortcut models.
    Source: Guo et al. 2025, SplitMeanFlow (arXiv 2507.16884).

    >>> Between(0.5, 0.5)(torch.zeros(2), torch.ones(2), Rng(0))
    tensor([0.5000, 0.5000])
    """

    low: Part = 0.05
    high: Part = 0.95
    evolves = False

    def __post_init__(self) -> None:
        require(self.low <= self.high, f"Between got low={self.low}, high={self.high}; give low up to high")

    def __call__(self, t: Tensor, s: Tensor, rng: Rng) -> Tensor:
        return self.low + (self.high - self.low) * rng.uniform(len(t), t)


@dataclass(frozen=True)
class Falling:
    """A share that falls geometrically during the training.

    a = first (last / first)^p,  p the share of the training that is done
    Source: Luo et al. 2025, SoFlow (arXiv 2512.15657), with 1/10 to 1/500; Yang et al. 2023, "Consistency Models"
    (arXiv 2303.01469), whose number of steps doubles.

    >>> Falling(0.1, 0.001)(torch.zeros(1), torch.ones(1), Rng(0))
    tensor([0.0010])
    """

    first: Part = 0.1
    last: Part = 0.002
    evolves = True

    def __call__(self, t: Tensor, s: Tensor, rng: Rng) -> Tensor:
        return torch.full_like(t, self.first * (self.last / self.first) ** progress())


@dataclass(frozen=True)
class SigmoidFalling:
    """A share that falls from 1 to a small one by a sigmoid over the training.

    a = max(last, sigmoid(-sharpness (p - 1/2)))  and 1 above 1 - last,  p the share of the training that is done
    Training starts with flow matching on trajectories (a = 1) and ends near the differential identity.
    Source: Zhang et al. 2025, alpha-Flow (arXiv 2510.20771).

    >>> SigmoidFalling()(torch.zeros(1), torch.ones(1), Rng(0))
    tensor([0.0050])
    """

    last: Part = 0.005
    sharpness: Positive = 25.0
    evolves = True

    def __call__(self, t: Tensor, s: Tensor, rng: Rng) -> Tensor:
        a = 1 / (1 + math.exp(min(self.sharpness * (progress() - 0.5), 700.0)))
        return torch.full_like(t, 1.0 if a > 1 - self.last else max(a, self.last))


@dataclass(frozen=True)
class NoiseRatio:
    """A share by the ratio of the noise levels at both sides of the division, in stages that bring it to 1.

    sigma(m) / sigma(t) = 1 - q^-(j + 1) (1 + 8 sigmoid(-sigma(t))),  sigma = (1 - t) / t,  j = floor(stages p)
    A ratio below that of the end gives the whole jump.
    Assumes jumps towards the data, and p as the share of the training that is done.
    Source: Geng et al. 2024, "Consistency Models Made Easy" (arXiv 2406.14548).

    >>> NoiseRatio()(torch.full((1,), 0.5), torch.ones(1), Rng(0)) < 0.05
    tensor([True])
    """

    q: Annotated[float, Range(above=1)] = 2.0
    stages: Count = 8
    scale: NonNegative = 8.0
    evolves = True

    def __call__(self, t: Tensor, s: Tensor, rng: Rng) -> Tensor:
        stage = min(self.stages - 1, int(self.stages * progress()))
        sigma = (1 - t) / t.clamp(min=1e-4)
        ratio = (1 - self.q ** -(stage + 1) * (1 + self.scale * torch.sigmoid(-sigma))).clamp(min=0)
        m = 1 / (1 + ratio * sigma)
        return ((m - t) / (s - t).clamp(min=1e-6)).clamp(1e-4, 1)
