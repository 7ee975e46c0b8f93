"""Guidance towards a smaller sample in its low frequencies, for samples above the trained resolution."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Guidance
from beeline.core.ranges import Count, Range, Share, dataclass
from beeline.core.types import Cond, Dynamics, expand_time
from beeline.fields.flow import Flow
from beeline.paths.affine import Linear
from beeline.sampling.guidance.dependence import Containing
from beeline.sampling.guidance.guide import Plain, like_field


@dataclass(frozen=True)
class ProjectedFlow(Containing):
    """Directs the low frequencies of a sample to those of a guide, such as an enlarged sample of the trained size.

    v' = v + c(t) P((y - x) / (1 - t) - v),  c = strength (1 + cos(pi min(t / until, 1))) / 2,  P: means of blocks
    The guide y [B,*S] is the leaf ``name`` of the condition, which the field does not get.  With ``until`` infinite the
    low frequencies of the result are those of the guide.
    Assumes the straight path, and states whose last two axes are an image.
    Source: Du et al. 2024, "I-Max: Maximize the Resolution Potential of Pre-trained Rectified Flow Transformers with
    Projected Flow" (arXiv 2410.07536).

    >>> f = ProjectedFlow(block=2, until=math.inf)(lambda x, t: 0 * x, {"guide": torch.ones(1, 1, 2, 2)})
    >>> float(f(torch.zeros(1, 1, 2, 2), torch.full((1,), 0.5)).mean())
    2.0
    """

    guidance: Guidance = field(default_factory=Plain)  # of the field
    block: Count = 2  # side of the blocks; 2 is one level of the Haar wavelet
    strength: Share = 1.0  # share of the guide's velocity at t = 0
    until: Annotated[float, Range(above=0, inf=True)] = 1.0  # time at which the guide has no weight left
    name: str = "guide"  # the leaf of the condition that holds the guide

    def for_flow(self, flow: Flow) -> Any:
        """The guidance with the inner one for ``flow``; raises ValueError for another path than the straight one."""
        require(
            isinstance(flow.path, Linear),
            f"ProjectedFlow got a flow on {type(flow.path).__name__}; its velocity to the guide is that of the "
            "straight path: convert the flow with convert_flow(flow, Linear())",
        )
        return super().for_flow(flow)

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        require(
            isinstance(cond, Mapping) and isinstance(cond.get(self.name), Tensor),
            f"ProjectedFlow got a condition without {self.name!r}; give the guide there, a tensor of the shape of the "
            "samples",
        )
        assert isinstance(cond, Mapping)
        guide = cond[self.name]
        assert isinstance(guide, Tensor)
        inner = self.guidance(field, {name: leaf for name, leaf in cond.items() if name != self.name} or None)

        def f(x: Tensor, t: Tensor, *s: Tensor) -> Tensor:
            require(
                x.shape[1:] == guide.shape[1:] and len(x) % len(guide) == 0,
                f"ProjectedFlow got states of shape {tuple(x.shape)} and a guide of shape {tuple(guide.shape)}; "
                "enlarge the guide to the size of the samples",
            )
            v = inner(x, t, *s)
            y = guide.to(x).repeat(len(x) // len(guide), *[1] * (x.ndim - 1))
            there = (y - x) / expand_time((1 - t).clamp(min=1e-6), x)
            share = self.strength * (1 + torch.cos(math.pi * (t / self.until).clamp(max=1))) / 2
            return v + expand_time(torch.where(t < 1, share, 0), x) * block_means(there - v, self.block)

        return like_field(field, f)

    def calls(self, t: float) -> int:
        return self.guidance.calls(t)


def block_means(v: Tensor, side: int) -> Tensor:
    """``v`` [...,H,W] with every block of side x side replaced by its mean, an orthogonal projection."""
    h, w = v.shape[-2:]
    require(
        h % side == 0 and w % side == 0,
        f"states of {h} x {w} have no whole blocks of side {side}; set block to a divisor of both sides",
    )
    parts = v.unflatten(-1, (w // side, side)).unflatten(-3, (h // side, side))
    return parts.mean((-3, -1), keepdim=True).expand_as(parts).flatten(-4, -3).flatten(-2, -1)
