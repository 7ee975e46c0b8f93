"""Guidance rules beside plain extrapolation: scales over time, an optimised weak scale, projection, rescaling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Protocol, TypeAlias

import torch
from torch import Tensor

from beeline.core.protocols.flows import Rule
from beeline.core.ranges import Range, Share, dataclass
from beeline.core.types import expand_time

Combination: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(strong, weak, x, t) -> velocity."""


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


@dataclass(frozen=True)
class ZeroStar:
    """Extrapolation from the multiple of the weak prediction that is nearest to the strong one (CFG-Zero*).

    v = s weak + scale (strong - s weak),  s = <strong, weak> / |weak|^2 for every sample;  v = 0 for t < start
    ``start`` is the end of the first steps, about 4 % of them, in which the velocity is zero.  That mends the early
    velocities of undertrained networks and harms converged ones.
    Source: Fan et al. 2025, "CFG-Zero*: Improved Classifier-Free Guidance for Flow Matching Models" (arXiv 2503.18886).

    >>> rule = ZeroStar(3.0).for_run()
    >>> rule(torch.ones(1, 2), torch.full((1, 2), 0.5), torch.zeros(1, 2), torch.zeros(1))
    tensor([[1., 1.]])
    """

    scale: Annotated[float, Range(least=0)]  # 1 is no guidance
    start: Share = 0.0  # time before which the velocity is zero

    def for_run(self) -> Combination:
        def rule(strong: Tensor, weak: Tensor, x: Tensor, t: Tensor) -> Tensor:
            s = _inner(strong, weak) / _inner(weak, weak).clamp(min=1e-8)
            weak = expand_time(s, x).to(x) * weak
            v = weak + self.scale * (strong - weak)
            return torch.where(expand_time(t >= self.start, x), v, torch.zeros_like(v))

        return rule


@dataclass(frozen=True)
class Projected:
    """Extrapolation of predicted data without the part parallel to the strong prediction (APG).

    D = x + (1 - t) v;  d = D_strong - D_weak + momentum d_before;  d <- d min(1, radius sqrt(N) / |d|);
    d <- orthogonal part + parallel (part along D_strong);  v = strong + (scale - 1) d / (1 - t)
    N is the number of entries of a sample, so that ``radius`` is a root mean square.  The momentum is that of the
    evaluations of one run, in their order.
    Assumes the straight path.
    Source: Sadat et al. 2024, "Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models"
    (arXiv 2410.02416).

    >>> rule = Projected(5.0).for_run()
    >>> rule(torch.ones(1, 2), torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1))  # parallel: nothing is added
    tensor([[1., 1.]])
    """

    scale: Annotated[float, Range(least=0)]  # 1 is no guidance
    parallel: Annotated[float, Range(least=0)] = 0.0  # share of the parallel part that is kept; 1 keeps all of it
    radius: Annotated[float, Range(above=0, inf=True)] = math.inf  # bound of the root mean square of the difference
    momentum: Annotated[float, Range(above=-1, below=1)] = 0.0  # of earlier differences; -0.5 is usual

    def for_run(self) -> Combination:
        before: list[Tensor] = []

        def rule(strong: Tensor, weak: Tensor, x: Tensor, t: Tensor) -> Tensor:
            left = expand_time((1 - t).clamp(min=1e-6), x).to(x)
            difference = left * (strong - weak)
            if before and before[0].shape == difference.shape:
                difference = difference + self.momentum * before[0]
            before[:] = [difference] if self.momentum else []
            size = (_inner(difference, difference) / difference[0].numel()).sqrt()
            difference = difference * expand_time((self.radius / size.clamp(min=1e-12)).clamp(max=1), x).to(x)
            data = x + left * strong
            along = expand_time(_inner(difference, data) / _inner(data, data).clamp(min=1e-12), x).to(x) * data
            return strong + (self.scale - 1) * (difference + (self.parallel - 1) * along) / left

        return rule


@dataclass(frozen=True)
class Rescaled:
    """Another rule whose predicted data are scaled back to the deviation of the strong prediction's.

    D = x + (1 - t) v;  D <- (1 - share) D + share D std(D_strong) / std(D), for every sample
    Assumes the straight path.
    Source: Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed" (arXiv 2305.08891).

    >>> rule = Rescaled(ZeroStar(3.0), share=0.0).for_run()
    >>> rule(torch.ones(1, 2), torch.full((1, 2), 0.5), torch.zeros(1, 2), torch.zeros(1))
    tensor([[1., 1.]])
    """

    rule: Rule
    share: Share = 0.7  # 0 is the rule itself

    def for_run(self) -> Combination:
        inner = self.rule.for_run()

        def rule(strong: Tensor, weak: Tensor, x: Tensor, t: Tensor) -> Tensor:
            left = expand_time((1 - t).clamp(min=1e-6), x).to(x)
            data, guided = x + left * strong, x + left * inner(strong, weak, x, t)
            factor = _deviation(data) / _deviation(guided).clamp(min=1e-12)
            factor = expand_time(1 - self.share + self.share * factor, x).to(x)
            return (factor * guided - x) / left

        return rule


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner products [B] of samples, in float32 or better."""
    wide = torch.promote_types(a.dtype, torch.float32)
    return (a.to(wide) * b.to(wide)).flatten(1).sum(1)


def _deviation(x: Tensor) -> Tensor:
    """Standard deviations [B] over the entries of every sample."""
    return x.flatten(1).to(torch.promote_types(x.dtype, torch.float32)).std(1, correction=0)
