"""The plan of a network: the order in which blocks are visited."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from beeline.core.ranges import Count, dataclass
from beeline.networks.transformer.layout import NONE, Layout, Notes


class Plan(Protocol):
    """In which order the blocks are visited, and what is done around a visit."""

    def visits(self, blocks: int) -> tuple[int, ...]:
        """The numbers of the blocks of one stack in the order of their visits."""
        ...

    def build(self, width: int, visits: int) -> Visiting:
        """The module for all visits of a network, numbered from 0."""
        ...


class Visiting(nn.Module):
    """What is done around visits; the defaults call the block."""

    plain: bool = True  # whether visit k is block k and nothing is done around it
    scattered: bool = False  # whether blocks are given some tokens, which are no grid

    def told(self, k: int, e: Tensor) -> Tensor:
        """The embedding of time and condition [B,D] for visit k; ``e`` itself where it has none of its own."""
        return e

    def layout(self, k: int, e: Tensor, layout: Layout) -> Layout:
        """What the block may know in visit k, by the embedding [B,D]."""
        return layout

    def forward(self, k: int, block: nn.Module, h: Tensor, told: Tensor, layout: Layout) -> Any:
        """The tokens [B,N,D] after visit k, with notes where the layout asks for them."""
        return block(h, told, layout)


class Around(Visiting):
    """Base of what is done around some visits of another plan."""

    plain = False

    def __init__(self, inner: Visiting, at: Collection[int]):
        super().__init__()
        self.inner, self.at, self.scattered = inner, frozenset(at), inner.scattered or self.scattered

    def told(self, k: int, e: Tensor) -> Tensor:
        return self.inner.told(k, e)

    def layout(self, k: int, e: Tensor, layout: Layout) -> Layout:
        return self.inner.layout(k, e, layout)

    def forward(self, k: int, block: nn.Module, h: Tensor, told: Tensor, layout: Layout) -> Any:
        def inner(h: Tensor, layout: Layout) -> tuple[Tensor, Notes]:
            out = self.inner(k, block, h, told, layout)
            return out if layout.noting else (out, NONE)

        out, notes = self.changed(k, inner, h, layout) if k in self.at else inner(h, layout)
        return (out, notes) if layout.noting else out

    def changed(self, k: int, inner: Inner, h: Tensor, layout: Layout) -> tuple[Tensor, Notes]:
        """The tokens after a visit that is changed, and notes."""
        raise NotImplementedError


Inner: TypeAlias = Callable[[Tensor, Layout], tuple[Tensor, Notes]]
"""A visit of the plan inside: (tokens, layout) -> (tokens, notes)."""


@dataclass(frozen=True)
class Plain:
    """Every block is visited once.

    h <- block_k(h),  k = 0, ..., depth - 1

    >>> Plain().visits(3)
    (0, 1, 2)
    """

    def visits(self, blocks: int) -> tuple[int, ...]:
        return tuple(range(blocks))

    def build(self, width: int, visits: int) -> Visiting:
        return Visiting()


class Embedded(Visiting):
    """An embedding of every visit."""

    plain = False

    def __init__(self, width: int, visits: int):
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(visits, width))

    def told(self, k: int, e: Tensor) -> Tensor:
        return e + self.embedding[k].to(e.dtype)


@dataclass(frozen=True)
class Shared:
    """Every block is visited several times, with one set of weights.

    h <- block_k(h) with modulation of e + v_i in visit i,  v_i = 0 at first
    Its time is that of a network with ``times`` as many blocks.  With depth 1 there is one block (WideNet).  A network
    that was trained with fewer visits can be given more: those with gates that are zero change nothing.
    Source: Xue et al. 2021, "Go Wider Instead of Deeper" (arXiv 2107.11817); Shen et al. 2021, "Sliced Recursive
    Transformer" (arXiv 2111.05297).

    >>> Shared(2).visits(2), Shared(2, rounds=True).visits(2)
    ((0, 0, 1, 1), (0, 1, 0, 1))
    """

    times: Count = 2  # visits of a block
    rounds: bool = False  # visit all blocks, and then all of them again

    def visits(self, blocks: int) -> tuple[int, ...]:
        once = range(blocks)
        return tuple(once) * self.times if self.rounds else tuple(k for k in once for _ in range(self.times))

    def build(self, width: int, visits: int) -> Visiting:
        return Embedded(width, visits)
