"""Guidance scales that depend on time."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Annotated, Protocol

import torch
from scipy.integrate import quad
from torch import Tensor

from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.protocols.flows import Combination
from beeline.core.ranges import Positive, Range, dataclass
from beeline.core.types import expand_time
from beeline.sampling.guidance.dependence import TimesDependent, needs_times


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
class Sine:
    """Guidance that grows from the noise to the data, fast at first.

    share = pi/2 sin(pi t / 2)
    Source: Wang et al. 2024 (arXiv 2404.13040).

    >>> Sine()(torch.tensor([1.0]))
    tensor([1.5708])
    """

    def __call__(self, t: Tensor) -> Tensor:
        return math.pi / 2 * torch.sin(math.pi / 2 * t)


@dataclass(frozen=True)
class PowerCosine:
    """Guidance that grows as a raised cosine of a power of time.

    share = (1 - cos(pi t^power)) / m,  m the mean of the numerator over t
    Source: Wang et al. 2024 (arXiv 2404.13040).

    >>> PowerCosine(1.0)(torch.tensor([0.5, 1.0]))
    tensor([1., 2.])
    """

    power: Positive = 4.0  # above 1 it grows late, below 1 early

    def __call__(self, t: Tensor) -> Tensor:
        return (1 - torch.cos(math.pi * t**self.power)) / _mean_of_power_cosine(self.power)


@cache
def _mean_of_power_cosine(power: float) -> float:
    return float(quad(lambda t: 1 - math.cos(math.pi * t**power), 0, 1, epsabs=1e-12)[0])


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
class OverTime(TimesDependent):
    """Extrapolation with a scale that depends on time.

    v = weak + w(t) (strong - weak),  w(t) = max(1 + (scale - 1) shape(t), least)
    The shapes have mean 1 over uniform times, so that scales of different shapes are comparable.  On a shifted schedule
    their mean over the steps differs; ``over_steps`` divides by it, that of the times at which steps begin.
    Source: Wang et al. 2024, "Analysis of Classifier-Free Guidance Weight Schedulers" (arXiv 2404.13040).

    >>> rule = OverTime(3.0, Rising()).for_run()
    >>> rule(torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([0.25]))
    tensor([[2.]])
    """

    scale: Annotated[float, Range(least=1)]  # its mean over time; 1 is no guidance
    shape: ScaleShape
    least: Annotated[float, Range(least=1)] = 1.0  # scale that is always applied
    over_steps: bool = False  # whether ``scale`` is the mean over the steps of the run

    def for_times(self, times: Tensor) -> OverTime:
        """The rule for a run over ``times`` [steps+1]."""
        if not self.over_steps:
            return self
        mean = float(self.shape(host_times(times)[:-1].double()).mean())
        require(
            mean > 1e-6,
            f"OverTime got {type(self.shape).__name__}, which is 0 at all times at which steps begin; it cannot be "
            "normalised over them: use more steps, or over_steps=False",
        )
        return replace(self, shape=_Divided(self.shape, mean), over_steps=False)

    def for_run(self) -> Combination:
        if self.over_steps:
            needs_times("OverTime(over_steps=True)")

        def rule(strong: Tensor, weak: Tensor, x: Tensor, t: Tensor) -> Tensor:
            scale = (1 + (self.scale - 1) * self.shape(t)).clamp(min=self.least)
            return weak + expand_time(scale, x).to(x) * (strong - weak)

        return rule


@dataclass(frozen=True)
class _Divided:
    """A shape divided by a number."""

    shape: ScaleShape
    by: float

    def __call__(self, t: Tensor) -> Tensor:
        return self.shape(t) / self.by
