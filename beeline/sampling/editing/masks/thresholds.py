"""From a number for every position to the weights of a region."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.editing import Threshold
from beeline.core.ranges import Inside, dataclass
from beeline.sampling.blur import gaussian_blur


@dataclass(frozen=True)
class Otsu:
    """The positions above the threshold that divides them best into two classes.

    m = 1 where size > c,  c maximises n0 n1 (mean1 - mean0)^2 over the positions of a datum
    Where all positions have one size they are all inside.
    Source: Otsu 1979, "A Threshold Selection Method from Gray-Level Histograms", over the sorted values themselves.

    >>> Otsu()(torch.tensor([[0.1, 0.2, 0.9, 1.0]]))
    tensor([[0., 0., 1., 1.]])
    """

    def __call__(self, size: Tensor) -> Tensor:
        flat = size.flatten(1).float()
        ordered = flat.double().sort(1).values
        count = ordered.shape[1]
        if count == 1:
            return torch.ones_like(size)
        below = torch.arange(1, count, dtype=torch.float64, device=size.device)
        sums = ordered.cumsum(1)
        total, first = sums[:, -1:], sums[:, :-1]
        between = below * (count - below) * ((total - first) / (count - below) - first / below).square()
        between = torch.where(ordered[:, 1:] > ordered[:, :-1], between, -1.0)  # equal values stay together
        best = between.argmax(1, keepdim=True)
        found = flat > ordered.gather(1, best).float()
        return (found | (flat == flat.amax(1, keepdim=True))).to(size.dtype).view_as(size)


@dataclass(frozen=True)
class LargestShare:
    """A given share of the positions, those of the largest size.

    m = 1 where size >= c,  c the value that the share of the positions reach

    >>> LargestShare(0.25)(torch.tensor([[0.1, 0.2, 0.9, 1.0]]))
    tensor([[0., 0., 0., 1.]])
    """

    share: Inside = 0.25  # of the positions of a datum; at least one is taken

    def __call__(self, size: Tensor) -> Tensor:
        flat = size.flatten(1)
        k = max(1, round(self.share * flat.shape[1]))
        return (flat >= flat.topk(k, 1).values[:, -1:]).to(size.dtype).view_as(size)


@dataclass(frozen=True)
class Soft:
    """Weights in proportion to the size, of which the largest is 1.

    m = (size - least) / (largest - least)

    >>> Soft()(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[0.0000, 0.5000, 1.0000]])
    """

    def __call__(self, size: Tensor) -> Tensor:
        flat = size.flatten(1)
        low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        spread = high - low
        return torch.where(spread > 0, (flat - low) / spread.clamp(min=1e-30), 1.0).to(size.dtype).view_as(size)


def by_position(x: Tensor) -> Tensor:
    """The mean over channels of data [B,C,*P] as [B,1,*P]; data [B,D] have no channels."""
    return x.mean(1, keepdim=True) if x.ndim > 2 else x


def marked(size: Tensor, threshold: Threshold, deviation: float, dilation: int, whose: str) -> Tensor:
    """Weights from a size for every position: smoothed, divided by a threshold, and dilated."""
    require(
        size.ndim == 4 or (deviation == 0 and dilation == 0),
        f"{whose} got deviation={deviation} and dilation={dilation} for data without rows and columns, of shape "
        f"{tuple(size.shape[1:])}; neighbours are those of pictures: set both to 0",
    )
    if deviation:
        size = gaussian_blur(size, deviation)
    return dilated(threshold(size), dilation)


def dilated(m: Tensor, pixels: int) -> Tensor:
    """Weights [B,C,H,W] with every position as large as the largest within some pixels of it."""
    return m if pixels == 0 else F.max_pool2d(m, 2 * pixels + 1, 1, pixels)
