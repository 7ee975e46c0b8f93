"""Sources: where a flow starts at t = 0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng


@dataclass(frozen=True)
class Gaussian:
    """Standard normal noise in every coordinate.

    x0 ~ N(0, I)
    Assumes that data are scaled to order one.
    Source: Lipman et al. 2023 (arXiv 2210.02747).

    >>> Gaussian().sample(torch.empty(2, 3), Rng(0)).shape
    torch.Size([2, 3])
    """

    gaussian = True

    def sample(self, like: Tensor, rng: Rng) -> Tensor:
        return rng.normal(like)

    def log_prob(self, x: Tensor) -> Tensor:
        """Nats per sample, [B]."""
        flat = x.flatten(1)
        return -(flat**2).sum(1) / 2 - flat.shape[1] / 2 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Uniform:
    """Even noise in a box.

    x0 ~ U[low, high] in every coordinate
    Assumes nothing; there is no score to derive from it.
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003), which allows any source.

    >>> bool((Uniform().sample(torch.empty(5, 1), Rng(0)).abs() <= 1).all())
    True
    """

    low: float = -1.0
    high: float = 1.0  # above low
    gaussian = False

    def __post_init__(self) -> None:
        require(self.low < self.high, f"Uniform got low={self.low}, high={self.high}; a box needs low below high")

    def sample(self, like: Tensor, rng: Rng) -> Tensor:
        return self.low + (self.high - self.low) * rng.fill(like)

    def log_prob(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        inside = ((flat >= self.low) & (flat <= self.high)).all(1)
        value = -flat.shape[1] * math.log(self.high - self.low)
        return torch.where(inside, value, -math.inf).to(x.dtype)


@dataclass(frozen=True, eq=False)
class Empirical:
    """A data set as the source, drawn with replacement: flows from data to data.

    x0 ~ uniform over the rows of data
    Assumes rows of the shape of the flow's data; it has no density.
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003), domain transfer.

    >>> Empirical(torch.ones(3, 2)).sample(torch.empty(1, 2), Rng(0))
    tensor([[1., 1.]])
    """

    data: Tensor  # [N,*S]
    gaussian = False

    def __post_init__(self) -> None:
        require(len(self.data) > 0, "Empirical got no rows; a source needs at least one datum to draw")

    def sample(self, like: Tensor, rng: Rng) -> Tensor:
        require(
            like.shape[1:] == self.data.shape[1:],
            f"Empirical holds data of shape {tuple(self.data.shape[1:])}, but {tuple(like.shape[1:])} was asked for; "
            "both ends of a flow have one shape",
        )
        return self.data[rng.integers(len(self.data), len(like))].to(like.device, like.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        raise BeelineError(
            "the density of an Empirical source was asked for; a finite set of points has none: "
            "likelihoods need a Gaussian or Uniform source"
        )
