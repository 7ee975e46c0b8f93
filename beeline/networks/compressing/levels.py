"""Number formats whose values are the levels of a table."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import Count, Range, dataclass
from beeline.networks.compressing.formats import Gridded, nonzero
from beeline.networks.compressing.rounding import MeanSize, Nearest, Rounding

ROW = 2**20  # a group that is the whole row


@dataclass(frozen=True)
class Levels(Gridded):
    """Numbers that are levels of a table, times a scale for every group; of several tables the best one.

    w ~ scale level,  scale = max |w| of a group / max |level|
    A number takes log2(levels) bits, rounded up, and every group 32 for its scale, and 8 if there are several tables.
    Source: tables: Dettmers et al. 2023 (arXiv 2305.14314); a choice for every group: Chen et al. 2024, BitMoD (arXiv
    2411.11745).  Raises ValueError for tables that are not rising, of different lengths or of more than 256 levels.

    >>> form = Levels(((-1.0, 0.0, 1.0),))
    >>> form.decode(form.encode(torch.tensor([[2.0, 0.4, -1.5]])), 1, 3)
    tensor([[ 2.,  0., -2.]])
    """

    tables: tuple[tuple[float, ...], ...] = ((-1.0, 0.0, 1.0),)
    group: Count = 64  # numbers of a row with one scale, or the row
    rounding: Rounding = Nearest()

    def __post_init__(self) -> None:
        rising = all(a < b for table in self.tables for a, b in pairwise(table))
        require(
            bool(self.tables) and rising and all(2 <= len(t) == len(self.tables[0]) <= 256 for t in self.tables),
            f"Levels got tables={self.tables}; give one table or several, each of the same number of 2 to 256 levels "
            "from the lowest to the highest",
        )

    @property
    def bits(self) -> int:
        return (len(self.tables[0]) - 1).bit_length()

    def fit(self, w: Tensor) -> dict[str, Tensor]:
        largest = w.abs().amax(-1)
        choices: list[dict[str, Tensor]] = []
        for i, table in enumerate(self.tables):
            scale = largest / max(abs(level) for level in table)
            choice = {} if len(self.tables) == 1 else {"table": torch.full_like(scale, i, dtype=torch.uint8)}
            choices.append({"scale": scale, **choice})
        if len(choices) == 1:
            return choices[0]
        errors = torch.stack([(self.value(self.nearest(w, c), c) - w).square().sum(-1) for c in choices])
        best = errors.argmin(0)[None]
        return {name: torch.stack([c[name] for c in choices]).gather(0, best)[0] for name in choices[0]}

    def nearest(self, w: Tensor, fitted: Mapping[str, Tensor]) -> Tensor:
        z = w / nonzero(fitted["scale"])[..., None]
        codes = [_nearest(z, table) for table in self.tables]
        if len(codes) == 1:
            return codes[0]
        which = fitted["table"].long()[None, ..., None].expand(1, *z.shape)
        return torch.stack(codes).gather(0, which)[0]

    def value(self, codes: Tensor, fitted: Mapping[str, Tensor]) -> Tensor:
        scale = fitted["scale"]
        levels = scale.new_tensor(self.tables)
        which = fitted["table"].long()[..., None] if len(self.tables) > 1 else 0
        return levels[which, codes.long()] * scale[..., None]

    def halves(self, fitted: Mapping[str, Tensor]) -> Tensor:
        levels = fitted["scale"].new_tensor(self.tables)
        outer = torch.maximum(levels[:, -1].abs(), levels[:, 0].abs())  # what a number beyond the last level is off by
        gaps = (levels.diff(dim=1).amax(1) / 2).maximum(outer - levels[:, -1]).maximum(outer + levels[:, 0])
        return fitted["scale"] * (gaps[fitted["table"].long()] if len(self.tables) > 1 else gaps[0])


def _nearest(z: Tensor, table: tuple[float, ...]) -> Tensor:
    levels = z.new_tensor(table)
    return torch.bucketize(z, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)


def mirrored(levels: tuple[float, ...]) -> tuple[float, ...]:
    """A rising table of levels and their negatives."""
    return tuple(sorted({float(sign * level) + 0.0 for level in levels for sign in (-1, 1)}))


def PowersOfTwo(bits: Count = 4, group: Count = 64) -> Levels:  # noqa: N802 - named as the formats
    """Powers of two with a sign, without zero.

    w ~ scale sign 2^-k,  k = 0 .. 2^(bits-1) - 1
    More bits add levels near zero, and hardly lessen the error.
    Source: Li et al. 2022, DenseShift (arXiv 2208.09708).

    >>> PowersOfTwo(2).tables
    ((-1.0, -0.5, 0.5, 1.0),)
    """
    return Levels((mirrored(tuple(2.0**-k for k in range(2 ** (bits - 1)))),), group)


def SmallFloats(exponent: Count = 3, mantissa: Count = 2, group: Count = ROW) -> Levels:  # noqa: N802
    """Floating point numbers of few bits, without infinities: FP6 (e3m2), FP4 (e2m1) and others.

    |level| = 2^(E-1) (1 + M / 2^mantissa) for E >= 1, and M / 2^mantissa for E = 0;  one scale for a row
    Source: Wu et al. 2023, ZeroQuant(4+2) (arXiv 2312.08583).

    >>> len(SmallFloats(2, 1).tables[0])  # 0 has one sign
    15
    """
    steps = 2**mantissa
    levels = [m / steps for m in range(steps)]
    levels += [2.0 ** (e - 1) * (1 + m / steps) for e in range(1, 2**exponent) for m in range(steps)]
    return Levels((mirrored(tuple(levels)),), group)


def NormalFloat4(group: Count = 64) -> Levels:  # noqa: N802 - named as the formats
    """Sixteen quantiles of a normal distribution (NF4).

    Source: Dettmers et al. 2023, QLoRA (arXiv 2305.14314), appendix E.

    >>> len(NormalFloat4().tables[0])
    16
    """
    return Levels((NF4,), group)


def StatsQ(bits: Annotated[int, Range(1, 8)] = 2) -> Levels:  # noqa: N802 - named as in its paper
    """Levels without zero at equal steps, whose range follows the mean size of a row: for two bits, or one.

    w ~ s (k + 1/2) / n,  s = 2 mean |w|,  k = -n .. n - 1,  n = 2^(bits-1)
    Source: Liu et al. 2023, "Oscillation-free Quantization for Low-bit Vision Transformers" (arXiv 2302.02210).

    >>> StatsQ(2).tables
    ((-0.75, -0.25, 0.25, 0.75),)
    """
    n = 2 ** (bits - 1)
    return Levels((mirrored(tuple((k + 0.5) / n for k in range(n))),), ROW, MeanSize((2 * n - 1) / n))


def BitMoD(bits: Count = 3, group: Count = 128) -> Levels:  # noqa: N802 - named as the formats
    """Small floating point numbers of 3 or 4 bits with one level more, chosen for every group of four.

    3 bits: {0, 1, 2, 4} and one of 3, -3, 6, -6;  4 bits: {0, 1, 2, 3, 4, 6, 8, 12} and one of 10, -10, 16, -16
    Source: Chen et al. 2024, BitMoD (arXiv 2411.11745).

    >>> len(BitMoD(3).tables)
    4
    """
    require(
        bits in EXTRA,
        f"BitMoD got bits={bits}; it has tables of {sorted(EXTRA)} bits: give one of them, or use Integers",
    )
    base, more = EXTRA[bits]
    return Levels(tuple(tuple(sorted((*mirrored(base), extra))) for extra in more), group)


EXTRA: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    3: ((0.0, 1.0, 2.0, 4.0), (3.0, -3.0, 6.0, -6.0)),
    4: ((0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0), (10.0, -10.0, 16.0, -16.0)),
}
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
