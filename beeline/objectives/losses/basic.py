"""Weights over time and distances between values, which every objective uses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Path, Prediction
from beeline.core.protocols.objectives import DistanceInContext
from beeline.core.ranges import dataclass
from beeline.fields.flow import Data
from beeline.paths.affine import AffinePath

Weight = Callable[[Tensor], Tensor]
"""Time [B] or [B,F] -> a weight of the same shape, on top of the density of the times."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""(predicted [B,*S], target [B,*S]) -> [B]; a ``ContextDistance`` also takes the states and times."""


class Context(NamedTuple):
    """The states, times and path at which a distance compares two values."""

    x: Tensor  # [B,*S], the states
    t: Tensor  # [B], their times
    path: Path
    prediction: Prediction  # the space of the values

    def data(self, value: Tensor) -> Tensor:
        """The data end [B,*S] that a value implies at these states and times."""
        if isinstance(self.prediction, Data):
            return value
        require(
            isinstance(self.path, AffinePath),
            f"a distance between data was used on {type(self.path).__name__}, on which a velocity implies no data end; "
            "use an affine path such as Linear(), or the distance squared",
        )
        assert isinstance(self.path, AffinePath)
        return self.path.data(self.x, self.prediction.velocity(value, self.x, self.t, self.path), self.t)


class ContextDistance:
    """Base of distances that need the states, the times or the data end beside the two values."""

    def at(self, where: Context) -> Distance:
        """The distance between values in this context."""
        raise NotImplementedError

    @property
    def contextual(self) -> bool:
        """Whether it needs a context, and raises without one."""
        return True


def distance_at(distance: Distance, where: Context) -> Distance:
    """The distance in a context; other distances are returned as they are."""
    return distance.at(where) if isinstance(distance, DistanceInContext) else distance


def one(t: Tensor) -> Tensor:
    """The weight 1 at every time.

    w(t) = 1

    >>> one(torch.tensor([0.3]))
    tensor([1.])
    """
    return torch.ones_like(t)


def squared(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference over all coordinates, [B].

    |predicted - target|^2 / D
    Its minimum is the mean.
    Source: Lipman et al. 2023 (arXiv 2210.02747).

    >>> squared(torch.ones(1, 4), torch.zeros(1, 4))
    tensor([1.])
    """
    return (predicted - target).square().flatten(1).mean(1)


@dataclass(frozen=True)
class Huber:
    """Pseudo-Huber distance: squared near zero and absolute far from it, which bounds the effect of outliers.

    (sqrt(|d|^2 + c^2) - c) / D with c = scale D;  ``each``: the mean of sqrt(d_i^2 + scale^2) - scale over coordinates
    The first form uses the norm of the whole difference d [D], the second every coordinate separately.
    Source: Lee, Lin and Fanti 2024 (arXiv 2405.20320), c = 0.00054 D; Song and Dhariwal 2023 (arXiv 2310.14189) have
    c = 0.00054 sqrt(D), which is scale = 0.00054 / sqrt(D).  ``each``: Wang et al. 2024 (arXiv 2410.07303), 0.001.

    >>> Huber(1.0)(torch.full((1, 4), 1.5), torch.zeros(1, 4))
    tensor([0.2500])
    """

    scale: float = 0.00054  # above 0; larger is closer to squared
    each: bool = False  # per coordinate

    def __post_init__(self) -> None:
        require(
            self.scale > 0 and math.isfinite(self.scale),
            f"Huber got scale={self.scale}; the distance changes from squared to absolute there, so it is positive: "
            "give a number above 0 (0.00054 is usual)",
        )

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        d = (predicted - target).flatten(1)
        if self.each:
            return ((d.square() + self.scale**2).sqrt() - self.scale).mean(1)
        c = self.scale * d.shape[1]
        return ((d.square().sum(1) + c * c).sqrt() - c) / d.shape[1]
