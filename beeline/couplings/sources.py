"""Sources: distributions of x0, the state at t = 0.

``sample(like, rng)`` returns samples with the shape, dtype and device of ``like`` [B,*S]; ``log_prob(x)`` the log
density in nats [B].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng


@dataclass(frozen=True)
class Gaussian:
    """Standard normal noise.

    x0 ~ N(0, I)
    Assumes data of order one.
    Source: Lipman et al. 2023 (arXiv 2210.02747).

    >>> Gaussian().sample(torch.empty(2, 3), Rng(0)).shape
    torch.Size([2, 3])
    """

    gaussian = True

    def sample(self, like: Tensor, rng: Rng) -> Tensor:
        return rng.normal(like)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density in nats, [B]."""
        flat = x.flatten(1)
        return -(flat**2).sum(1) / 2 - flat.shape[1] / 2 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Uniform:
    """Uniform noise in every coordinate.

    x0 ~ U[low, high]
    The velocity does not determine a score.
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003), which allows any source.

    >>> bool((Uniform().sample(torch.empty(5, 1), Rng(0)).abs() <= 1).all())
    True
    """

    low: float = -1.0
    high: float = 1.0  # above low
    gaussian = False

    def __post_init__(self) -> None:
        require(
            self.low < self.high,
            f"Uniform got low={self.low}, high={self.high}; the interval is empty: set low below high",
        )

    def sample(self, like: Tensor, rng: Rng) -> Tensor:
        return self.low + (self.high - self.low) * rng.fill(like)

    def log_prob(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        inside = ((flat >= self.low) & (flat <= self.high)).all(1)
        value = -flat.shape[1] * math.log(self.high - self.low)
        return torch.where(inside, value, -math.inf).to(x.dtype)


@dataclass(frozen=True, eq=False)
class Empirical:
    """The rows of a data set, sampled with replacement, for flows between two data sets.

    x0 ~ uniform over the rows of data
    Assumes rows with the shape of the flow's data.  It has no density.
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003), domain transfer.

    >>> Empirical(torch.ones(3, 2)).sample(torch.empty(1, 2), Rng(0))
    tensor([[1., 1.]])
    """

    data: Tensor  # [N,*S]
    gaussian = False

    def __post_init__(self) -> None:
        require(len(self.data) > 0, "Empirical got no rows; there is nothing to sample: pass data [N,*S] with N >= 1")

    def sample(self, like: Tensor, rng: Rng) -> Tensor:
        require(
            like.shape[1:] == self.data.shape[1:],
            f"Empirical contains data of shape {tuple(self.data.shape[1:])}, but samples of shape "
            f"{tuple(like.shape[1:])} were requested; both ends of a flow must have one shape: reshape the data",
        )
        return self.data[rng.integers(len(self.data), len(like))].to(like.device, like.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        raise BeelineError(
            "log_prob was called on an Empirical source; a finite set of points has no density: use a Gaussian or "
            "Uniform source for likelihoods"
        )
