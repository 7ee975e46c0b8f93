"""Modulations whose blocks share a layer, so that most of their weights exist once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from beeline.core.modes import wide
from beeline.core.ranges import Count, dataclass
from beeline.networks.fp32 import zeroed
from beeline.networks.transformer.blocks import OfTime, OwnModulation


class Row(nn.Module):
    """The learned table of a block, added to what all blocks share; blocks with fewer chunks take the first ones."""

    def __init__(self, width: int, chunks: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(chunks, width))

    def forward(self, e: Tensor) -> Tensor:
        return e[:, : self.table.numel()] + self.table.to(e.dtype).flatten()


class LastRow(nn.Module):
    """Shift and scale of the output: the embedding before its silu, plus a learned table."""

    def __init__(self, width: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(2, width))

    def forward(self, z: Tensor, like: Tensor) -> Tensor:
        return (z[:, None] + self.table.to(z.dtype)).flatten(1).to(like.dtype)


@dataclass(frozen=True)
class AdaLNSingle(OwnModulation):
    """Shifts, scales and gates from one linear layer for all blocks, and a learned table for each block.

    (shift, scale, gate) of every branch = W e + b + table_l,  all 0 at first
    A block has 6 D numbers for its modulation in place of 6 D^2, and shift and scale of the output are the embedding
    itself plus a table.
    Source: Chen et al. 2023, "PixArt-alpha" (arXiv 2310.00426).

    >>> AdaLNSingle().build(4, 6)(AdaLNSingle().root(4)(torch.ones(1, 4))).shape
    torch.Size([1, 24])
    """

    def root(self, width: int) -> nn.Module:
        return zeroed(nn.Linear(width, CHUNKS * width))

    def build(self, width: int, chunks: int) -> nn.Module:
        return Row(width, chunks)

    def last(self, width: int) -> nn.Module:
        return LastRow(width)


class ShiftsBeside(OfTime):
    """Shifts that all blocks share, and a clock: [B,D] and [B] -> [B, 2 D + 1]."""

    def __init__(self, width: int):
        super().__init__()
        self.shared = zeroed(nn.Linear(width, 2 * width))

    def forward(self, e: Tensor, t: Tensor) -> Tensor:
        t = wide(t)
        clock = 0.5 * (torch.log(t.clamp(min=1e-9)) - torch.log1p(-t.clamp(max=1 - 1e-9))).clamp(-5, 5)
        return torch.cat([self.shared(e), clock[:, None].to(e.dtype)], -1)


class Between(nn.Module):
    """Scales and gates of a block between two vectors."""

    def __init__(self, width: int, chunks: int):
        super().__init__()
        self.branches = chunks // 3
        self.ends = nn.Parameter(torch.zeros(2, self.branches, 2, width))
        self.slope, self.start = (
            nn.Parameter(torch.ones(self.branches, 2, 1)),
            nn.Parameter(torch.zeros(self.branches, 2, 1)),
        )

    def forward(self, told: Tensor) -> Tensor:
        clock = wide(told[:, -1])[:, None, None, None]
        p0, p1 = (wide(p) for p in self.ends)
        p = p1 + torch.sigmoid(self.slope * clock + self.start) * (p0 - p1)  # [B, branches, 2, D]
        shift = told[:, :-1].unflatten(-1, (2, -1))[:, : self.branches, None]
        return torch.cat([shift, p.to(shift.dtype)], 2).flatten(1)


@dataclass(frozen=True)
class TimeDependent(OwnModulation):
    """Scales and gates of each block go from one learned vector to another in time; shifts are shared by all blocks.

    p(t) = p1 + sigmoid(w c(t) + b) (p0 - p1),  c = ln(t / (1 - t)) / 2 in [-5, 5];  w = 1, p0 = p1 = b = 0 at first
    shift = W e + b of the embedding, 0 at first, through which conditions act
    A block has 8 D numbers for its modulation in place of 6 D^2.
    Source: Liu et al. 2024, "DiMR" (arXiv 2406.09416), its time-dependent normalisation; here with gates.

    >>> sum(p.numel() for p in TimeDependent().build(16, 6).parameters())
    136
    """

    def root(self, width: int) -> nn.Module:
        return ShiftsBeside(width)

    def build(self, width: int, chunks: int) -> nn.Module:
        return Between(width, chunks)


CHUNKS = 6  # of blocks with two branches, the most that a block has


class SharedBeside(nn.Module):
    """A linear layer that all blocks share, [B,D] -> its output and its input beside each other."""

    def __init__(self, width: int):
        super().__init__()
        self.shared = zeroed(nn.Linear(width, CHUNKS * width))

    def forward(self, e: Tensor) -> Tensor:
        return torch.cat([self.shared(e), e], -1)


class LowRank(nn.Module):
    """The part of a block: the shared output plus a product of two thin matrices."""

    def __init__(self, width: int, chunks: int, rank: int):
        super().__init__()
        self.width = width
        self.down = nn.Linear(width, rank, bias=False)
        self.up = zeroed(nn.Linear(rank, chunks * width))

    def forward(self, e: Tensor) -> Tensor:
        shared, own = e[:, : self.up.out_features], e[:, -self.width :]
        out: Tensor = shared + self.up(self.down(own))
        return out


@dataclass(frozen=True)
class AdaLNLoRA(OwnModulation):
    """Shifts, scales and gates from one linear layer for all blocks plus one of low rank for each block.

    (shift, scale, gate) of every branch = W e + b + B_l A_l e + b_l,  W, B_l, b and b_l 0 at first
    Source: Wang et al. 2024, "FiTv2" (arXiv 2410.13925), with a rank of a quarter of the width.

    >>> sum(p.numel() for p in AdaLNLoRA(ratio=2).build(4, 6).parameters())
    80
    """

    ratio: Count = 4  # the rank of a block is the width over this

    def root(self, width: int) -> nn.Module:
        return SharedBeside(width)

    def build(self, width: int, chunks: int) -> nn.Module:
        return LowRank(width, chunks, max(1, width // self.ratio))
