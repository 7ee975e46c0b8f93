"""Hints computed from pictures: what a control learns to follow."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import Count, Positive, dataclass


class Hint(Protocol):
    """A picture computed from another one, with the same sides."""

    def __call__(self, x: Tensor) -> Tensor:
        """[B,C,H,W] in [-1, 1] -> [B,C_h,H,W] in [-1, 1]."""
        ...


def _grey(x: Tensor) -> Tensor:
    """The mean of the channels [B,1,H,W]; ValueError for data that are no pictures."""
    require(
        x.ndim == 4,
        f"a hint was to be made from data of shape {tuple(x.shape)}; it is made from pictures [B,C,H,W]: give a hint "
        "of your own, any function of the data",
    )
    return x.mean(1, keepdim=True)


@dataclass(frozen=True)
class Edges(Hint):
    """Edges: the size of the gradient of the grey picture, by Sobel's filters.

    hint = 2 min(1, gain |grad x| / 2) - 1,  which is -1 where nothing changes; |grad x| = 1 at a step of one level
    Source: Sobel and Feldman 1968.

    >>> Edges()(torch.zeros(1, 3, 4, 4)).unique()
    tensor([-1.])
    """

    gain: Positive = 1.0  # the difference of levels that counts as a whole edge is 2 / gain

    def __call__(self, x: Tensor) -> Tensor:
        one = torch.tensor([[1.0, 2.0, 1.0]], device=x.device, dtype=x.dtype) / 4
        slope = torch.tensor([[-1.0, 0.0, 1.0]], device=x.device, dtype=x.dtype)
        filters = torch.stack([one.T @ slope, slope.T @ one])[:, None]
        d = F.conv2d(F.pad(_grey(x), (1, 1, 1, 1), mode="replicate"), filters)
        return 2 * (self.gain / 2 * d.square().sum(1, keepdim=True).sqrt()).clamp(max=1) - 1


@dataclass(frozen=True)
class Silhouette(Hint):
    """Where a picture is bright: 1 there, and -1 elsewhere.

    hint = sign(x - level)

    >>> Silhouette()(torch.tensor([[[[-0.5, 0.5]]]]))
    tensor([[[[-1.,  1.]]]])
    """

    level: float = 0.0  # of the grey picture, in [-1, 1]

    def __call__(self, x: Tensor) -> Tensor:
        return 2.0 * (_grey(x) > self.level).to(x.dtype) - 1


@dataclass(frozen=True)
class Blur(Hint):
    """A grey picture without details, as a map of depths is: a blur by a Gaussian.

    hint = sum_j w_ij x_j,  w_ij ~ exp(-|i - j|^2 / (2 sigma^2)),  with the sum 1 inside of the picture

    >>> Blur()(torch.ones(1, 3, 4, 4)).allclose(torch.ones(1, 1, 4, 4))
    True
    """

    sigma: Positive = 1.5  # pixels

    def __call__(self, x: Tensor) -> Tensor:
        rows, columns = (self._weights(n, x) for n in x.shape[-2:])
        return rows @ _grey(x) @ columns.T

    def _weights(self, n: int, x: Tensor) -> Tensor:
        at = torch.arange(n, device=x.device, dtype=x.dtype) / self.sigma
        return torch.softmax(-(at[:, None] - at).square() / 2, 1)


@dataclass(frozen=True)
class LowResolution(Hint):
    """A picture of fewer pixels, enlarged again.

    hint = the mean of x over the block of factor x factor pixels
    Blocks at the right and the lower end may be smaller.

    >>> LowResolution(2)(torch.arange(4.0).view(1, 1, 2, 2)).unique()
    tensor([1.5000])
    """

    factor: Count = 4  # pixels of a side that become one

    def __call__(self, x: Tensor) -> Tensor:
        require(
            x.ndim == 4,
            f"LowResolution got data of shape {tuple(x.shape)}; it is made for pictures [B,C,H,W]: give a hint of "
            "your own",
        )
        small = F.avg_pool2d(x, self.factor, ceil_mode=True, count_include_pad=False)
        large = F.interpolate(small, scale_factor=float(self.factor), mode="nearest")
        return large[..., : x.shape[-2], : x.shape[-1]]
