"""Guidance rules that restore the norm of the strong prediction, and the parts over which the norm is taken."""

from __future__ import annotations

import math
from typing import Annotated, Protocol

from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Combination
from beeline.core.ranges import Count, NonNegative, Range, dataclass


class Norm(Protocol):
    """v [B,*S] -> Euclidean norms of its parts, broadcastable to v."""

    def __call__(self, v: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class PerToken:
    """Norms of patches: all channels of patch x patch pixels.

    n = sqrt(sum v^2) over a patch
    Assumes images [B,C,H,W] with sides divisible by the patch.

    >>> import torch
    >>> PerToken(2)(torch.ones(1, 4, 2, 2))[0, 0]
    tensor([[4., 4.],
            [4., 4.]])
    """

    patch: Count = 2  # side of a patch

    def __call__(self, v: Tensor) -> Tensor:
        p = self.patch
        require(
            v.ndim == 4 and v.shape[2] % p == 0 and v.shape[3] % p == 0,
            f"PerToken({p}) got states of shape {tuple(v.shape)}; its norms are over patches of {p} x {p} pixels of "
            "images [B,C,H,W]: set patch to a divisor of both sides, or use PerRow",
        )
        b, c, h, w = v.shape
        parts = v.view(b, c, h // p, p, w // p, p)
        norms = parts.square().sum((1, 3, 5), keepdim=True).sqrt()
        return norms.expand(b, 1, h // p, p, w // p, p).reshape(b, 1, h, w)


@dataclass(frozen=True)
class PerRow:
    """Norms over the last axis: of a row of pixels of each channel.

    n = sqrt(sum v^2) over the last axis
    >>> import torch
    >>> PerRow()(torch.ones(1, 1, 1, 4))
    tensor([[[[2.]]]])
    """

    def __call__(self, v: Tensor) -> Tensor:
        return v.square().sum(-1, keepdim=True).sqrt()


@dataclass(frozen=True)
class PerChannel:
    """Norms of channels: over all axes after the first two.

    n = sqrt(sum v^2) over the positions of a channel
    Assumes states [B,C,...] with positions.

    >>> import torch
    >>> PerChannel()(torch.ones(1, 2, 3, 3)).flatten()
    tensor([3., 3.])
    """

    def __call__(self, v: Tensor) -> Tensor:
        require(
            v.ndim > 2,
            f"PerChannel got states of shape {tuple(v.shape)}, which have no positions; its norms are over those of a "
            "channel: use PerRow",
        )
        return v.square().sum(tuple(range(2, v.ndim)), keepdim=True).sqrt()


@dataclass(frozen=True)
class NormRestored:
    """Extrapolation that keeps the norm of the strong prediction in every part.

    v = w min(|strong| / |w|, most),  w = weak + scale (strong - weak)
    With ``most=1`` it is a limit of the norm.  The limit of the difference itself is ``Projected(scale, parallel=1.0,
    radius=r)``.
    Source: Qwen-Image technical report, 2025 (arXiv 2508.02324); Lumina-Image 2.0, 2025 (arXiv 2503.21758).

    >>> import torch
    >>> NormRestored(2.0, PerRow()).for_run()(torch.tensor([[3.0]]), torch.tensor([[1.0]]), None, None)
    tensor([[3.]])
    """

    scale: NonNegative  # 1 is no guidance
    norm: Norm  # the parts
    most: Annotated[float, Range(above=0, inf=True)] = math.inf  # bound of the factor; 1 only shortens

    def for_run(self) -> Combination:
        def rule(strong: Tensor, weak: Tensor, x: Tensor, t: Tensor) -> Tensor:
            v = weak + self.scale * (strong - weak)
            return v * (self.norm(strong) / self.norm(v).clamp(min=1e-12)).clamp(max=self.most)

        return rule
