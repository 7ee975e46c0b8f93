"""Mixers by convolutions of the grid of patches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.modes import wide
from beeline.core.ranges import Count, Positive, Whole, dataclass
from beeline.networks.fp32 import zeroed
from beeline.networks.transformer.layout import Layout
from beeline.networks.transformer.mixers import OneStream
from beeline.networks.transformer.mixing.groups import check_grid

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
SMOOTH = {1: "linear", 2: "bilinear", 3: "trilinear"}  # as torch names them, by the number of axes


class GridMixing(nn.Module):
    """Base of modules that see the tokens as a grid of as many axes as that of their network."""

    def __init__(self, axes: int):
        super().__init__()
        self.axes = axes

    def as_grid(self, u: Tensor, layout: Layout) -> Tensor:
        """Tokens [B,N,D] as [B,D,*grid]."""
        check_grid(layout, self.axes)
        require(
            u.shape[1] == layout.tokens,
            f"a mixer of a grid got {u.shape[1]} tokens for {' x '.join(map(str, layout.grid))} patches; it has no "
            "place for others: use an attention such as mixer=LinearAttention",
        )
        return u.mT.unflatten(-1, layout.grid)


def odd(name: str, side: int) -> None:
    """Raise BeelineError for an even side of a kernel."""
    require(side % 2 == 1, f"{name} got side={side}; a kernel has a patch in its middle: set {side - 1} or {side + 1}")


def longer(now: Sequence[int], usual: Sequence[int]) -> list[float]:
    """How many times the sides of a grid are those of the usual one, at least 1."""
    return [max(1.0, n / m) for n, m in zip(now, usual, strict=True)]


class Recursive(GridMixing):
    """A depthwise convolution of several resolutions."""

    def __init__(self, width: int, axes: int, side: int, levels: int):
        super().__init__(axes)
        bound = side ** (-axes / 2)
        self.down, self.fine = (
            nn.Parameter(torch.empty(width, 1, *[side] * axes).uniform_(-bound, bound)) for _ in range(2)
        )
        self.coarse = nn.Parameter(torch.zeros(levels, width, 1, *[side] * axes))

    def forward(self, u: Tensor, layout: Layout) -> Tensor:
        sizes = [self.as_grid(u, layout)]
        for _ in self.coarse:
            sizes.append(self.convolved(sizes[-1], self.down, 2))
        x = sizes.pop()
        for kernel, finer in zip(self.coarse, reversed(sizes), strict=True):
            y = self.convolved(x, kernel, 1)
            x = finer + F.interpolate(y, finer.shape[2:], mode=SMOOTH[y.ndim - 2], align_corners=False)
        return self.convolved(x, self.fine, 1).flatten(2).mT

    def convolved(self, x: Tensor, kernel: Tensor, stride: int) -> Tensor:
        half = kernel.shape[-1] // 2
        return CONVOLUTIONS[x.ndim - 2](x, kernel.to(x), stride=stride, padding=half, groups=x.shape[1])


@dataclass(frozen=True)
class RecConv(OneStream):
    """A depthwise convolution with a large kernel, made of small ones on halved grids.

    x_0 = u,  x_{j+1} = down(x_j);  y = 0, for j = l..1: y = up(conv_j(x_j + y));  o = conv_0(u + y)
    ``down`` is one convolution with a stride of 2, ``up`` is linear interpolation, and conv_1.. are 0 at first.
    Parameters: (l + 2) side^axes for every channel.
    Source: Zhao et al. 2024, "RecConv: Efficient Recursive Convolutions for Multi-Frequency Representations" (arXiv
    2412.19628).

    >>> RecConv().levels
    2
    """

    side: Count = 5  # of a kernel, odd; 3 to 7
    levels: Whole = 2  # halvings; the kernel covers about side 2^levels patches

    def __post_init__(self) -> None:
        odd("RecConv", self.side)

    def build(self, width: int, heads: int, grid: tuple[int, ...]) -> nn.Module:
        return Recursive(width, len(grid), self.side, self.levels)


class Points(GridMixing):
    """A depthwise convolution whose kernel is a sum of points."""

    def __init__(self, width: int, grid: tuple[int, ...], side: int, points: int):
        super().__init__(len(grid))
        self.usual, self.side = grid, side
        self.at = nn.Parameter(nn.init.trunc_normal_(torch.empty(width, points, len(grid)), 0, 0.3, -1, 1))
        self.weight = nn.Parameter(0.02 * torch.randn(width, points))
        self.radius = nn.Parameter(torch.full((width, points), min(0.99, 2 / side)).logit())

    def forward(self, u: Tensor, layout: Layout) -> Tensor:
        x = self.as_grid(u, layout)
        halves = [round(self.side // 2 * r) for r in longer(layout.grid, self.usual)]
        kernel = self.kernel(halves)[:, None].to(x)
        return CONVOLUTIONS[x.ndim - 2](x, kernel, padding=halves, groups=x.shape[1]).flatten(2).mT

    def kernel(self, halves: Sequence[int]) -> Tensor:
        """The kernels [D, 2 half + 1 along every axis]; those of larger grids have smaller values, and equal sums."""
        at, weight, radius = wide(self.at).clamp(-1, 1), wide(self.weight), 1e-4 + wide(self.radius).sigmoid()
        axes = [torch.linspace(-1, 1, 2 * h + 1).to(at) if h else at.new_zeros(1) for h in halves]
        places = torch.cartesian_prod(*axes)
        far = (places.view(-1, len(halves))[:, None, None] - at).abs().sum(-1) / radius[None]  # [k^a,D,P]
        near = far < 1
        kernel = (weight * (1 - far) * near).sum(-1) / near.sum(-1).clamp(min=1)
        sides = [2 * h + 1 for h in halves]
        share = self.side ** len(halves) / math.prod(sides)
        return share * kernel.mT.unflatten(-1, sides)


@dataclass(frozen=True)
class PointConv(OneStream):
    """A depthwise convolution whose kernel is a mean of points with learned places, radii and weights.

    K(d) = mean over points i with |d - p_i|_1 < r_i of (1 - |d - p_i|_1 / r_i) w_i,  d in [-1, 1] along every axis
    On grids that are larger than the usual one the kernel is sampled more finely.
    Source: Kim and Park 2023, "SMPConv: Self-moving Point Representations for Continuous Convolution" (arXiv
    2304.02330).

    >>> PointConv().points
    12
    """

    side: Count = 7  # of the kernel in patches, odd
    points: Count = 12  # of a channel; about side^axes / 4

    def __post_init__(self) -> None:
        odd("PointConv", self.side)

    def build(self, width: int, heads: int, grid: tuple[int, ...]) -> nn.Module:
        return Points(width, grid, self.side, self.points)


class Deforming(GridMixing):
    """A sum of values at places that every token chooses."""

    def __init__(self, width: int, heads: int, grid: tuple[int, ...], reach: float):
        super().__init__(len(grid))
        self.heads, self.usual, self.reach, self.points = heads, grid, reach, 3 ** len(grid)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.tell = zeroed(nn.Linear(width, heads * (self.points * (len(grid) + 1) + 1)))
        with torch.no_grad():
            told: Tensor = self.tell.bias.view(heads, -1)  # type: ignore[union-attr]
            told[:, : self.points] = 1 / self.points
            told[:, -1] = ((torch.arange(heads) + 1) / heads - 1e-4).logit()

    def forward(self, u: Tensor, layout: Layout) -> Tensor:
        v = self.value(self.as_grid(u, layout).flatten(2).mT).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        told = wide(self.tell(u)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        weight, moved, size = told.split([self.points, self.points * len(layout.grid), 1], -1)
        corners = torch.cartesian_prod(*[torch.arange(-1.0, 2.0, device=u.device)] * len(layout.grid))
        shift = moved.unflatten(-1, (self.points, -1)) + corners.view(self.points, -1).to(moved)
        reach = self.reach * moved.new_tensor(longer(layout.grid, self.usual))
        sides = [torch.arange(n, device=u.device) for n in layout.grid]
        base = torch.cartesian_prod(*sides).view(-1, 1, len(sides)).to(moved)
        at = base + shift * torch.sigmoid(size)[..., None] * reach  # [B,G,N,points,axes]
        return self.out(sampled(v, at, weight, layout.grid).transpose(1, 2).flatten(2).to(u.dtype))


def sampled(v: Tensor, at: Tensor, weight: Tensor, grid: tuple[int, ...]) -> Tensor:
    """sum_j weight_j v(at_j), linear between values [B,G,N,d] of a grid and 0 outside: [B,G,M,d] in float32 or wider.

    ``at`` [B,G,M,K,axes] is in patches, ``weight`` [B,G,M,K].  grid_sample of torch has no forward derivative.
    """
    low, mixed = at.floor().detach(), torch.zeros((), device=at.device)
    part, size = at - low, at.new_tensor(grid)
    for corner in itertools.product((0.0, 1.0), repeat=len(grid)):
        end = at.new_tensor(corner)
        place = low + end
        inside = ((place >= 0) & (place < size)).all(-1)
        share = weight * (1 - end + (2 * end - 1) * part).prod(-1) * inside
        index = torch.zeros_like(inside, dtype=torch.long)
        for axis, n in enumerate(grid):
            index = index * n + place[..., axis].clamp(0, n - 1).long()
        values = v.gather(2, index.flatten(2)[..., None].expand(-1, -1, -1, v.shape[-1]))
        mixed = mixed + (share[..., None, :] @ wide(values).unflatten(2, index.shape[2:])).squeeze(-2)
    return mixed


@dataclass(frozen=True)
class Deformable(OneStream):
    """A sum of values at 3 places along every axis that each token chooses, in as many groups as heads.

    o = W sum_j w_j(u) V(x + (D_j(u) + p_j) sigmoid(s(u)) reach),  p_j in {-1, 0, 1} along every axis,  V = W_v u
    D, s and w are linear in u and without slope at first: kernels whose size grows with the group, up to ``reach``.
    Values are linear between patches and 0 outside.  On grids larger than the usual one the reach grows with the sides;
    in the paper it does so in the first 0.6 of the time alone.
    Source: Wang et al. 2024, "FlowDCN: Exploring DCN-like Architectures for Fast Image Generation with Arbitrary
    Resolution" (arXiv 2410.22655).

    >>> Deformable().reach
    6.0
    """

    reach: Positive = 6.0  # patches

    def build(self, width: int, heads: int, grid: tuple[int, ...]) -> nn.Module:
        require(
            width % heads == 0,
            f"Deformable got width={width} and heads={heads}; heads are its groups of channels: set a width that is a "
            "multiple of heads",
        )
        return Deforming(width, heads, grid, self.reach)
