"""Guidance scales that depend on time."""

from __future__ import annotations

import math
from typing import Annotated, Protocol

import torch
from torch import Tensor

from beeline.core.protocols.flows import Combination
from beeline.core.ranges import Range, dataclass
from beeline.core.types import expand_time


class ScaleShape(Protocol):
    """Share of the guidance over time: t [B] -> [B], with mean 1 over t in [0, 1]."""

    def __call__(self, t: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Rising:
    """Guidance that grows linearly from the noise to the data.

    share = 2 t
    Source: Wang et al. 2024, "Analysis of Classifier-Free Guidance Weight Schedulers" (arXiv 2404.13040).

    >>> Rising()(torch.tensor([0.25]))
    tensor([0.5000])
    """

    def __call__(self, t: Tensor) -> Tensor:
        return 2 * t


@dataclass(frozen=True)
class Falling:
    """Guidance that falls linearly from the noise to the data.

    share = 2 (1 - t)
    Source: Wang et al. 2024 (arXiv 2404.13040), where it is worse than a constant one.

    >>> Falling()(torch.tensor([0.25]))
    tensor([1.5000])
    """

    def __call__(self, t: Tensor) -> Tensor:
        return 2 * (1 - t)


@dataclass(frozen=True)
class RaisedCosine:
    """Guidance that grows from 0 at the noise to its maximum at the data.

    share = 1 - cos(pi t)
    Source: Wang et al. 2024 (arXiv 2404.13040).

    >>> RaisedCosine()(torch.tensor([1.0]))
    tensor([2.])
    """

    def __call__(self, t: Tensor) -> Tensor:
        return 1 - torch.cos(math.pi * t)


@dataclass(frozen=True)
class Tent:
    """Guidance with its maximum in the middle.

    share = 2 - 4 |t - 1/2|
    Source: Wang et al. 2024 (arXiv 2404.13040).

    >>> Tent()(torch.tensor([0.5, 1.0]))
    tensor([2., 0.])
    """

    def __call__(self, t: Tensor) -> Tensor:
        return 2 - 4 * (t - 0.5).abs()


@dataclass(frozen=True)
class OverTime:
    """Extrapolation with a scale that depends on time.

    v = weak + w(t) (strong - weak),  w(t) = max(1 + (scale - 1) shape(t), least)
    The shapes have mean 1 over uniform times, so that scales of different shapes are comparable; on a shifted schedule
    the mean over the steps differs.
    Source: Wang et al. 2024, "Analysis of Classifier-Free Guidance Weight Schedulers" (arXiv 2404.13040).

    >>> rule = OverTime(3.0, Rising()).for_run()
    >>> rule(torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([0.25]))
    tensor([[2.]])
    """

    scale: Annotated[float, Range(least=1)]  # its mean over time; 1 is no guidance
    shape: ScaleShape
    least: Annotated[float, Range(least=1)] = 1.0  # scale that is always applied

    def for_run(self) -> Combination:
        def rule(strong: Tensor, weak: Tensor, x: Tensor, t: Tensor) -> Tensor:
            scale = (1 + (self.scale - 1) * self.shape(t)).clamp(min=self.least)
            return weak + expand_time(scale, x).to(x) * (strong - weak)

        return rule
