"""A plan in which some blocks see a coarse grid of tokens."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import field

import torch
from torch import Tensor

from beeline.core.modes import wide
from beeline.core.ranges import dataclass
from beeline.networks.transformer.layout import Layout, Notes
from beeline.networks.transformer.plans.depths import checked
from beeline.networks.transformer.plans.plan import Around, Inner, Plain, Plan, Visiting
from beeline.networks.transformer.plans.subset import Portion


class Coarse(Around):
    """Visits that see the low frequencies of the tokens."""

    def __init__(self, inner: Visiting, at: tuple[int, ...], keep: float):
        super().__init__(inner, at)
        self.keep = keep

    def changed(self, k: int, inner: Inner, h: Tensor, layout: Layout) -> tuple[Tensor, Notes]:
        fine = layout.grid
        grid = tuple(math.ceil(self.keep * n - 1e-9) for n in fine)
        if grid == fine:
            return inner(h, layout)
        n, few = layout.tokens, math.prod(grid)
        down = [shrinking(a, b) for a, b in zip(fine, grid, strict=True)]
        up = [m.mT * (m.shape[1] / m.shape[0]) for m in down]
        z = along(h[:, :n], fine, down)
        given = torch.cat([z, h[:, n:]], 1)
        out, notes = inner(given, layout.of_tokens(places(fine, grid, h.device))._replace(grid=grid))
        low = along(out[:, :few] - z, grid, up)
        if layout.noting:
            rest = wide(h[:, :n] - along(z, grid, up)).square().sum() / wide(h[:, :n]).square().sum()
            notes = {**notes, "high": rest}
        return torch.cat([h[:, :n] + low, out[:, few:]], 1), notes


@dataclass(frozen=True)
class SpectralShrink:
    """Some blocks see a coarse grid: the low frequencies of the tokens, while the high ones pass by unchanged.

    h <- h + Up(block(Down h) - Down h),  Down = sqrt(M/N) C_M' C_N[:M],  Up = sqrt(N/M) C_N[:M]' C_M along every axis
    C_N is the orthonormal cosine transform; Down Up = 1, and constants are kept.  With trained weights and keep < 1 it
    is an approximation: train or tune with it.  Note ``high``: share of the tokens' energy that passes by.
    Source: He et al. 2023, "Fourier Transformer" (arXiv 2305.15099); the residual form is chosen here.

    >>> SpectralShrink().at(9)
    (3, 4, 5)
    """

    keep: Portion = 0.5  # share of the tokens of every axis
    blocks: tuple[int, ...] | None = None  # numbers of visits; None is the middle third
    plan: Plan = field(default_factory=Plain)  # of the visits

    def at(self, visits: int) -> tuple[int, ...]:
        """The visits that see the coarse grid."""
        third = visits // 3
        return tuple(range(third, visits - third)) if self.blocks is None else self.blocks

    def visits(self, blocks: int) -> tuple[int, ...]:
        return self.plan.visits(blocks)

    def build(self, width: int, visits: int) -> Visiting:
        return Coarse(self.plan.build(width, visits), checked(self.at(visits), visits, "SpectralShrink"), self.keep)


@functools.lru_cache(maxsize=64)
def shrinking(n: int, m: int) -> Tensor:
    """The matrix [m,n] from n samples to m with the same m lowest frequencies, float64."""
    return math.sqrt(m / n) * cosines(m).mT @ cosines(n)[:m]


def cosines(n: int) -> Tensor:
    """The orthonormal cosine transform [n,n] (DCT-II), float64."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    c = torch.cos(math.pi * k * (i + 0.5) / n) * math.sqrt(2 / n)
    return torch.cat([c[:1] / math.sqrt(2), c[1:]])


def along(h: Tensor, grid: Sequence[int], matrices: Sequence[Tensor]) -> Tensor:
    """Tokens [B,N,D] of a grid with a matrix applied along every axis."""
    y = wide(h).unflatten(1, tuple(grid))
    for axis, matrix in enumerate(matrices, 1):
        y = (y.movedim(axis, -1) @ matrix.mT.to(y)).movedim(-1, axis)
    return y.flatten(1, -2).to(h.dtype)


def places(fine: Sequence[int], coarse: Sequence[int], device: torch.device) -> Tensor:
    """For every token of a coarse grid, that of the fine one at its place, rounded down: [M]."""
    index = torch.zeros((), dtype=torch.int64, device=device)
    for n, m in zip(fine, coarse, strict=True):
        own = ((torch.arange(m, device=device) + 0.5) * n / m - 0.5).floor().long()
        index = index[..., None] * n + own
    return index.flatten()
