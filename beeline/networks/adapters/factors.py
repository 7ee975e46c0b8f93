"""Matrices of low rank as two factors, so that changes of weights are added and measured without the matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from beeline.core.errors import require


@dataclass(frozen=True, eq=False)
class Factors:
    """The matrix D = up down, with up [out,r] and down [r,in].

    >>> d = Factors(torch.ones(3, 1), torch.ones(1, 2))
    >>> (d + d).dense().tolist()[0], d.shape
    ([2.0, 2.0], (3, 2))
    """

    up: Tensor
    down: Tensor

    def __post_init__(self) -> None:
        require(
            self.up.ndim == 2 and self.down.ndim == 2 and self.up.shape[1] == self.down.shape[0],
            f"factors of shapes {tuple(self.up.shape)} and {tuple(self.down.shape)} were given; D = up down has up "
            "[out,rank] and down [rank,in]: give both for the same rank",
        )

    @property
    def rank(self) -> int:
        """The number of columns of ``up``."""
        return self.up.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return self.up.shape[0], self.down.shape[1]

    def dense(self) -> Tensor:
        """The matrix [out,in]."""
        return self.up @ self.down

    def scaled(self, scale: float) -> Factors:
        """The matrix times a number, which is put into ``up`` alone."""
        return Factors(scale * self.up, self.down)

    def __add__(self, other: Factors) -> Factors:
        return Factors(torch.cat([self.up, other.up], 1), torch.cat([self.down, other.down]))

    def inner(self, other: Factors) -> Tensor:
        """The inner product of two matrices."""
        return ((self.up.mT @ other.up) * (self.down @ other.down.mT)).sum()

    def norm(self) -> Tensor:
        """The Frobenius norm."""
        return torch.linalg.vector_norm(self.singular_values())

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """U [out,k], singular values [k] and V^T [k,in], k = min(rank, out, in)."""
        (q, r), (p, s) = torch.linalg.qr(self.up), torch.linalg.qr(self.down.mT)
        u, sizes, v = torch.linalg.svd(r @ s.mT, full_matrices=False)
        return q @ u, sizes, v @ p.mT

    def singular_values(self) -> Tensor:
        """The singular values [min(rank, out, in)], the largest first."""
        return self.svd()[1]

    def truncated(self, rank: int) -> Factors:
        """The nearest matrix of at most this rank."""
        return _balanced(*self.svd(), rank)


def factored(d: Tensor, rank: int | None = None) -> Factors:
    """The nearest matrix of at most a rank, as factors of equal norms; without ``rank`` that of the matrix itself."""
    u, sizes, v = torch.linalg.svd(d, full_matrices=False)
    least = float(sizes[0]) * max(d.shape) * torch.finfo(d.dtype).eps
    return _balanced(u, sizes, v, max(1, int((sizes > least).sum())) if rank is None else rank)


def _balanced(u: Tensor, sizes: Tensor, v: Tensor, rank: int) -> Factors:
    root = sizes[:rank].clamp(min=0).sqrt()
    return Factors(u[:, :rank] * root, root[:, None] * v[:rank])


def floor(d: Tensor | Factors, rank: int) -> float:
    """The least relative error |D - D_rank| / |D| of a matrix of at most this rank; 0 for a zero matrix."""
    sizes = (d.singular_values() if isinstance(d, Factors) else torch.linalg.svdvals(d)).double()
    whole = float(sizes.square().sum())
    return (float(sizes[rank:].square().sum()) / whole) ** 0.5 if whole else 0.0


def rank_for(d: Tensor, energy: float) -> int:
    """The least rank with this share of the squared norm."""
    shares = torch.linalg.svdvals(d).double().square().cumsum(0)
    return int((shares < energy * shares[-1]).sum()) + 1 if float(shares[-1]) else 1


def overlap(a: Factors, b: Factors) -> float:
    """The overlap of two input spaces, |Q_a^T Q_b|^2 / min(rank): from 0 to 1; max(rank)/in for random ones."""
    first, second = torch.linalg.qr(a.down.mT)[0], torch.linalg.qr(b.down.mT)[0]
    return float((first.mT @ second).square().sum()) / min(a.rank, b.rank)


def stacked(parts: Sequence[Factors]) -> Factors:
    """Matrices with the same inputs, one below the other; ranks add."""
    return Factors(torch.block_diag(*(p.up for p in parts)), torch.cat([p.down for p in parts]))


def split(d: Factors, rows: Sequence[int]) -> list[Factors]:
    """The parts of a matrix with these numbers of outputs; a part whose other columns are zero is of a smaller rank."""
    require(
        sum(rows) == d.shape[0],
        f"a change of {d.shape[0]} outputs was to be split into parts of {list(rows)}; give sizes that sum to it",
    )
    made = []
    for up in d.up.split(list(rows)):
        used = up.abs().sum(0) > 0
        made.append(Factors(up[:, used], d.down[used]) if 0 < int(used.sum()) < d.rank else Factors(up, d.down))
    return made
