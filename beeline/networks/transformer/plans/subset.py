"""A part of the heads, hidden channels and visits of a network, with the weights of the whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import Range, dataclass
from beeline.networks.transformer.layout import Part

Portion = Annotated[float, Range(above=0, most=1)]


@dataclass(frozen=True)
class Subset(Part):
    """The first heads and hidden channels of every block, and some of the visits.

    o <- W [o_1 .. o_m 0 .. 0],  y <- W2 [u_1 .. u_n 0 .. 0] + b2,  h <- h in visits that are left out
    A narrower network is a prefix of a wider one, so that one set of weights holds all of them.

    >>> Subset(width=0.5).visits is None
    True
    >>> Subset(feeds=(0.5, 1.0)).at(0).feeds
    (0.5,)
    """

    width: Portion = 1.0  # share of the heads and of the hidden channels of every block; at least one of each is used
    visits: tuple[int, ...] | None = None  # numbers of the visits that are made; None for all
    feeds: tuple[Portion, ...] | None = None  # share of the hidden channels in every visit, or one for all; None: width

    def heads(self, mixed: Tensor) -> Tensor:
        return first(mixed, 1, self.width)

    def hidden(self, u: Tensor) -> Tensor:
        return first(u, -1, self.feed)

    @property
    def feed(self) -> float:
        """The share of the hidden channels, in one visit."""
        return self.width if self.feeds is None else self.feeds[0]

    def at(self, visit: int) -> Subset:
        return self if self.feeds is None or len(self.feeds) == 1 else replace(self, feeds=(self.feeds[visit],))

    def within(self, outer: Part) -> Subset:
        """A part of this part: shares are multiplied, and the visits are those of both."""
        if not isinstance(outer, Subset):
            return self
        kept = [part.visits for part in (self, outer) if part.visits is not None]
        visits = tuple(k for k in kept[0] if k in kept[-1]) if kept else None
        own, other = (part.feeds or (part.width,) for part in (self, outer))
        count = max(len(own), len(other))
        feeds = tuple(own[k % len(own)] * other[k % len(other)] for k in range(count))
        width = self.width * outer.width
        return Subset(width, visits, None if feeds == (width,) else feeds)

    def covers(self, visits: int) -> bool:
        """Whether this is the whole of a network that makes a number of visits."""
        shares = {self.width, *(self.feeds or ())}
        return shares == {1.0} and (self.visits is None or set(self.visits) >= set(range(visits)))

    def check(self, visits: int) -> None:
        """Raise ValueError for visits that a network does not make, or shares of other visits."""
        require(
            self.feeds is None or len(self.feeds) in (1, visits),
            f"Subset got {len(self.feeds or ())} shares of hidden channels (feeds) for a network that makes {visits} "
            f"visits; give one for all of them, or {visits}",
        )
        require(
            self.visits is None or all(0 <= k < visits for k in self.visits),
            f"Subset got visits={self.visits} for a network that makes {visits}; they are numbered from 0: give some "
            f"of 0 to {visits - 1}",
        )


def share_of(count: int, share: float) -> int:
    """How many of ``count`` are used: at least one."""
    return max(1, round(count * share))


def first(y: Tensor, dim: int, share: float) -> Tensor:
    """Zeros after the first part of a dimension."""
    n = y.shape[dim]
    keep = torch.arange(n, device=y.device) < share_of(n, share)
    return y * keep.to(y.dtype).reshape(-1, *[1] * (y.ndim - 1 - dim % y.ndim))
