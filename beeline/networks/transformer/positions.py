"""Positions of tokens: added to them, or turning queries and keys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.ranges import Count, Positive, dataclass
from beeline.networks.embed import sinusoidal_features
from beeline.networks.hub.sizes.rotary import Rotary as Scaling


class Positions(Protocol):
    """What tells tokens where they are; ``build`` gives a module with two functions of the grid of patches."""

    def build(self, width: int, heads: int, grid: tuple[int, ...]) -> Placing:
        """The module for tokens of ``width`` channels on the usual ``grid``."""
        ...


class Placing(nn.Module):
    """Positions of one network; the defaults add nothing and turn nothing."""

    def added(self, grid: tuple[int, ...], like: Tensor) -> Tensor | None:
        """What is added to tokens, [N,D] or None, on the device of ``like``."""
        return None

    def turn(self, grid: tuple[int, ...], like: Tensor) -> Tensor | None:
        """Cosines and sines [N,d/2,2] of rotary positions, or None."""
        return None


class Waves(Placing):
    """Sine and cosine positions."""

    table: Tensor

    def __init__(self, width: int, grid: tuple[int, ...], repeat: int):
        super().__init__()
        self.width, self.grid, self.repeat = width, grid, repeat
        self.register_buffer("table", self.waves(grid), persistent=False)

    def waves(self, grid: tuple[int, ...]) -> Tensor:
        return sincos(grid, self.width // self.repeat).repeat_interleave(self.repeat, -1)

    def added(self, grid: tuple[int, ...], like: Tensor) -> Tensor:
        return self.table if grid == self.grid else self.waves(grid).to(like.device)


@dataclass(frozen=True)
class SinCos:
    """Sines and cosines of the coordinates, added to the tokens.

    Each axis has an equal share of the channels, with frequencies from 1 to 1/10000 radian per patch.
    Source: Vaswani et al. 2017 (arXiv 1706.03762); Peebles and Xie 2022 (arXiv 2212.09748).

    >>> SinCos()
    SinCos(repeat=1)
    """

    repeat: Count = 1  # channels with the same wave, as in a network whose width has grown

    def build(self, width: int, heads: int, grid: tuple[int, ...]) -> Placing:
        require(
            width % (2 * len(grid) * self.repeat) == 0,
            f"the network got width={width}; the position embeddings of {len(grid)} axes divide it into sines and "
            f"cosines of each: set a multiple of {2 * len(grid) * self.repeat}",
        )
        return Waves(width, grid, self.repeat)


class Table(Placing):
    """A learned vector for every token."""

    def __init__(self, width: int, grid: tuple[int, ...]):
        super().__init__()
        self.grid = grid
        self.table = nn.Parameter(0.02 * torch.randn(math.prod(grid), width))

    def added(self, grid: tuple[int, ...], like: Tensor) -> Tensor:
        if grid == self.grid:
            return self.table
        require(
            all(n <= most for n, most in zip(grid, self.grid, strict=True)),
            f"the network got {' x '.join(map(str, grid))} patches, and its learned positions are those of "
            f"{' x '.join(map(str, self.grid))}; pass data of at most that size, or use positions=SinCos() or Rotary()",
        )
        first = [(most - n) // 2 for n, most in zip(grid, self.grid, strict=True)]
        middle = tuple(slice(a, a + n) for a, n in zip(first, grid, strict=True))
        return self.table.unflatten(0, self.grid)[middle].flatten(0, -2)


@dataclass(frozen=True)
class Learned:
    """A learned vector for every token of the largest grid; smaller data have those of its middle.

    token_i <- token_i + p_i
    Source: Dosovitskiy et al. 2020 (arXiv 2010.11929); the middle: Esser et al. 2024 (arXiv 2403.03206).

    >>> Learned()
    Learned(largest=())
    """

    largest: tuple[Count, ...] = ()  # patches along every axis; () is the grid that the network is built for

    def build(self, width: int, heads: int, grid: tuple[int, ...]) -> Placing:
        most = tuple(self.largest) or grid
        require(
            len(most) == len(grid) and all(n <= m for n, m in zip(grid, most, strict=True)),
            f"Learned got largest={most} for data of {' x '.join(map(str, grid))} patches; every axis needs at least "
            f"as many: set largest={grid}, more, or ()",
        )
        return Table(width, most)


class Turning(Placing):
    """Rotary positions."""

    def __init__(
        self, channels: int, theta: float, shares: tuple[int, ...], scaling: Scaling | None, usual: tuple[int, ...]
    ):
        super().__init__()
        self.channels, self.theta, self.shares, self.scaling, self.usual = channels, theta, shares, scaling, usual

    def turn(self, grid: tuple[int, ...], like: Tensor) -> Tensor:
        larger = [n > m for n, m in zip(grid, self.usual, strict=True)]
        scalings = [self.scaling if more else None for more in larger]
        return rotation(grid, self.channels, self.theta, self.shares, scalings).to(like.device)


@dataclass(frozen=True)
class Rotary:
    """Rotary positions: queries and keys are turned by angles that are linear in the coordinates.

    angle_i = position theta^(-2i/d_a), with the channels of a head divided among the axes
    Logits depend on differences of positions, so that other sizes are possible.  ``scaling`` changes the angles of axes
    that are longer than those of training, such as NTKAware(2.0) or YaRN(2.0, trained=16).
    Source: Su et al. 2021, "RoFormer" (arXiv 2104.09864); in several axes: Lu et al. 2024, "FiT" (arXiv 2402.12376).

    >>> Rotary().theta
    10000.0
    """

    theta: Positive = 10000.0  # the slowest angle has a period of about 2 pi theta patches
    shares: tuple[Count, ...] = ()  # of the axes in the channels, such as (1, 1); one more before them turns nothing
    scaling: Scaling | None = None  # of longer axes than those that the network is built for; None for none

    def build(self, width: int, heads: int, grid: tuple[int, ...]) -> Placing:
        channels = width // heads
        require(
            channels % 2 == 0 and channels >= 2 * len(grid),
            f"Rotary got heads of {channels} channels for {len(grid)} axes; each axis turns pairs of channels: use a "
            f"width of at least {2 * len(grid) * heads}, even for every head",
        )
        require(
            len(self.shares) in (0, len(grid), len(grid) + 1),
            f"Rotary got shares={self.shares} for data with {len(grid)} axes; there is one for every axis, and perhaps "
            f"one before them for channels that are not turned: give {len(grid)}, {len(grid) + 1} or none",
        )
        return Turning(channels, self.theta, tuple(self.shares), self.scaling, grid)


@dataclass(frozen=True)
class NoPositions:
    """Tokens do not know where they are; for mixers that see the grid.

    token_i <- token_i

    >>> NoPositions()
    NoPositions()
    """

    def build(self, width: int, heads: int, grid: tuple[int, ...]) -> Placing:
        return Placing()


def sincos(grid: Sequence[int], width: int) -> Tensor:
    """Position embeddings [N,width] of a grid, row by row: sines and cosines of every coordinate."""
    share = width // len(grid)
    parts = [sinusoidal_features(torch.arange(n) / 10000, share, 10000.0) for n in grid]
    return torch.cat(list(_broadcast(parts)), -1).flatten(0, -2)


def rotation(
    grid: Sequence[int],
    channels: int,
    theta: float,
    shares: Sequence[int] = (),
    scalings: Sequence[Scaling | None] = (),
) -> Tensor:
    """Cosines and sines [N,channels/2,2] of the angles of a grid; remaining pairs go to the first axes."""
    pairs, parts, before, size = channels // 2, [], 0, 1.0
    scalings = (None,) * (max(len(shares), len(grid)) - len(scalings)) + tuple(scalings)
    shares = tuple(shares) or (1,) * len(grid)
    grid = (1,) * (len(shares) - len(grid)) + tuple(grid)  # a coordinate that is always 0 turns nothing
    for axis, n in enumerate(grid):
        end = -(-pairs * sum(shares[: axis + 1]) // sum(shares))
        count, before = end - before, end
        rates = theta ** -(torch.arange(count, dtype=torch.float64) / max(count, 1))
        scaling = scalings[axis]
        if scaling is not None and count:
            rates, size = scaling.frequencies(2 * count, theta, rates), max(size, scaling.scale)
        parts.append(torch.arange(n, dtype=torch.float64)[:, None] * rates)
    angles = torch.cat(list(_broadcast(parts)), -1).flatten(0, -2)
    table = torch.stack([angles.cos(), angles.sin()], -1)
    return (size * table).float()


def _broadcast(parts: Sequence[Tensor]) -> list[Tensor]:
    """Features [n_a,F_a] of every axis, each expanded over the whole grid [*n,F_a]."""
    grid, found = [len(part) for part in parts], []
    for axis, part in enumerate(parts):
        shape = [1] * len(grid)
        shape[axis] = len(part)
        found.append(part.reshape(*shape, -1).expand(*grid, -1))
    return found
