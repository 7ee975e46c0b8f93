"""Guidance rules that change the direction or the size of the difference: optimised scale, projection, rescaling."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from beeline.core.protocols.flows import Combination, Rule
from beeline.core.ranges import Range, Share, dataclass
from beeline.core.types import expand_time
from beeline.sampling.guidance.dependence import Containing


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
class Rescaled(Containing):
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
