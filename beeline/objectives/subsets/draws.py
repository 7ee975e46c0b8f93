"""Which parts of a network one step of elastic training evaluates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from beeline.core.errors import require
from beeline.core.ranges import Share, Whole, dataclass
from beeline.core.rng import Rng
from beeline.networks.transformer.plans.subset import Portion, Subset

WHOLE = Subset()


class PartDraws(Protocol):
    """(visits of the network, rng) -> the parts of a step, in the order of their evaluation."""

    def __call__(self, visits: int, rng: Rng) -> Sequence[Subset]:
        """At least one part; ``Subset()`` is the whole network."""
        ...


@dataclass(frozen=True)
class AnyPart:
    """One part of any width and depth, or the whole network.

    width ~ U(least_width, 1),  every visit but the first and the last is left out with probability u ~ U(0, 1 -
    least_depth);  with probability ``whole`` the whole network
    Source: Yu and Huang 2019, "Universally Slimmable Networks" (arXiv 1903.05134); Cai et al. 2019, "Once for All"
    (arXiv 1908.09791).

    >>> AnyPart(whole=1.0)(4, Rng(0))
    [Subset(width=1.0, visits=None, feeds=None)]
    """

    least_width: Portion = 0.25  # share of the heads and hidden channels
    least_depth: Share = 0.5  # expected share of the visits in between
    whole: Share = 0.25  # of a step with the whole network

    def __call__(self, visits: int, rng: Rng) -> Sequence[Subset]:
        chance, width, depth, *own = (float(u) for u in rng.uniform(3 + visits, torch.empty(0)))
        if chance < self.whole:
            return [WHOLE]
        left_out = depth * (1 - self.least_depth)
        kept = [k for k, u in enumerate(own) if k in (0, visits - 1) or u >= left_out]
        return [Subset(self.least_width + width * (1 - self.least_width), tuple(kept))]


@dataclass(frozen=True)
class Listed:
    """All parts of a list, or some of them with equal chances: shares (width, depth).

    {(w_k, d_k)},  or ``count`` of them without repetition;  visits that are left out are spread evenly
    Source: Zhuang et al. 2024, "Starbucks" (arXiv 2410.13230), with all parts in every step; Valipour et al. 2023,
    "SortedNet" (arXiv 2309.00255), with one.

    >>> [part.visits for part in Listed(((0.5, 0.5), (1.0, 1.0)))(4, Rng(0))]
    [(0, 3), (0, 1, 2, 3)]
    """

    parts: tuple[tuple[Portion, Portion], ...] = ((0.25, 0.25), (0.5, 0.5), (0.75, 0.75), (1.0, 1.0))
    count: Whole = 0  # parts of a step; 0 for all of them

    def __post_init__(self) -> None:
        require(
            0 < len(self.parts) >= self.count,
            f"Listed got count={self.count} of {len(self.parts)} parts; give at least one part (width, depth), and "
            "count=0 for all of them in every step",
        )

    def __call__(self, visits: int, rng: Rng) -> Sequence[Subset]:
        chosen = sorted(rng.permutation(len(self.parts)).tolist()[: self.count or None])
        return [Subset(width, evenly(visits, depth)) for width, depth in (self.parts[k] for k in chosen)]


@dataclass(frozen=True)
class Sandwich:
    """The whole network, the smallest part, and parts in between.

    {whole, n of AnyPart(least_width, least_depth), (least_width, least_depth) with visits spread evenly}
    Source: Yu and Huang 2019 (arXiv 1903.05134); Yu et al. 2020, "BigNAS" (arXiv 2003.11142).

    >>> len(Sandwich()(4, Rng(0)))
    4
    """

    between: Whole = 2  # parts of any width and depth
    least_width: Portion = 0.25  # share of the heads and hidden channels
    least_depth: Share = 0.5  # share of the visits of the smallest part; of the others an expectation

    def __call__(self, visits: int, rng: Rng) -> Sequence[Subset]:
        smallest = Subset(self.least_width, evenly(visits, self.least_depth))
        other = AnyPart(self.least_width, self.least_depth, whole=0.0)
        return [WHOLE, *(other(visits, rng.fork(k))[0] for k in range(self.between)), smallest]


@dataclass(frozen=True)
class Nested:
    """One width of the feeds for all blocks, or one for every block; attention is always whole.

    y <- W2[:, :f] act(W1[:f] h),  f drawn from some widths with equal chances
    Source: Devvrit et al. 2023, "MatFormer" (arXiv 2310.07707); with ``apart``: Guo et al. 2019, "Single Path One-Shot
    Neural Architecture Search" (arXiv 1904.00420).

    >>> Nested((0.5,))(4, Rng(0))
    [Subset(width=1.0, visits=None, feeds=(0.5,))]
    """

    widths: tuple[Portion, ...] = (0.125, 0.25, 0.5, 1.0)  # shares of the hidden channels
    apart: bool = False  # every block draws its own

    def __post_init__(self) -> None:
        require(bool(self.widths), "Nested got no widths; give shares of the hidden channels, such as (0.25, 0.5, 1.0)")

    def __call__(self, visits: int, rng: Rng) -> Sequence[Subset]:
        drawn = rng.integers(len(self.widths), visits if self.apart else 1).tolist()
        return [Subset(feeds=tuple(self.widths[k] for k in drawn))]


def evenly(visits: int, share: float) -> tuple[int, ...]:
    """A share of the visits, at least one, spread evenly; the first and the last are among them from two on.

    >>> evenly(5, 0.6), evenly(5, 0.0)
    ((0, 2, 4), (0,))
    """
    count = max(1, round(visits * share))
    return tuple(round(k * (visits - 1) / max(1, count - 1)) for k in range(count))
