"""Rounding of the numbers of a weight to the values of a format, beside the nearest one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.ranges import Count, NonNegative, Positive, Range, dataclass
from beeline.networks.compressing.compressor import Moments


class Grid(Protocol):
    """Few values for the numbers of a weight; they depend on numbers that are fitted to groups of a row."""

    @property
    def bits(self) -> int:
        """Of a code."""
        ...

    @property
    def group(self) -> int:
        """Numbers of a row that share what is fitted."""
        ...

    @property
    def rounding(self) -> Rounding:
        """How numbers are rounded."""
        ...

    def fit(self, w: Tensor) -> dict[str, Tensor]:
        """What is stored of the groups w [out,groups,group], such as scales [out,groups]."""
        ...

    def nearest(self, w: Tensor, fitted: Mapping[str, Tensor]) -> Tensor:
        """The codes uint8 of the values nearest to w [out,groups,n]."""
        ...

    def value(self, codes: Tensor, fitted: Mapping[str, Tensor]) -> Tensor:
        """The values of codes [out,groups,n]."""
        ...

    def size(self, w: Tensor) -> int:
        """The numbers of a group of a weight [out,in]."""
        return min(self.group, w.shape[1])

    def grouped(self, w: Tensor) -> Tensor:
        """Numbers [out,in] in groups [out,groups,group], filled with zeros."""
        size = self.size(w)
        return F.pad(w, (0, -w.shape[1] % size)).unflatten(1, (-1, size))


class Rounding(Protocol):
    """(grid, weight [out,in], moments of the inputs or None) -> (codes uint8 [out,in], what is stored of groups)."""

    @property
    def calibrated(self) -> bool:
        """Whether it looks at the moments."""
        ...

    def __call__(self, grid: Grid, w: Tensor, moments: Moments | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Round a weight; to nearest without moments."""
        ...


@dataclass(frozen=True)
class Nearest:
    """Every number to the nearest value.

    q = argmin |w - value(q)|

    >>> Nearest().calibrated
    False
    """

    @property
    def calibrated(self) -> bool:
        return False

    def __call__(self, grid: Grid, w: Tensor, moments: Moments | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        groups = grid.grouped(w)
        fitted = grid.fit(groups)
        return grid.nearest(groups, fitted).flatten(1)[:, : w.shape[1]], fitted


@dataclass(frozen=True)
class OptimalBrain:
    """Column by column to the nearest value, each error made good by the columns that come after.

    H = E[x x^T] + damp mean(diag) I,  U = chol(H^-1) upper;  w_k <- w_k - (w_j - q_j) U_jk / U_jj for k > j
    The scales of a group are those of its numbers when it is reached.  With uncorrelated inputs it rounds to nearest.
    Source: Frantar et al. 2022, "GPTQ" (arXiv 2210.17323).

    >>> OptimalBrain().damp
    0.01
    """

    damp: NonNegative = 0.01

    @property
    def calibrated(self) -> bool:
        return True

    def __call__(self, grid: Grid, w: Tensor, moments: Moments | None) -> tuple[Tensor, dict[str, Tensor]]:
        if moments is None:
            return Nearest()(grid, w)
        size, codes = grid.size(w), torch.empty_like(w, dtype=torch.uint8)
        fitted: list[dict[str, Tensor]] = []

        def rounded(j: int, now: Tensor) -> Tensor:
            if j % size == 0:
                part = now[:, j : j + size].to(w.dtype)
                fitted.append(grid.fit(F.pad(part, (0, size - part.shape[1]))[:, None]))
            code = grid.nearest(now[:, j, None, None].to(w.dtype), fitted[-1])
            codes[:, j] = code[:, 0, 0]
            return grid.value(code, fitted[-1])[:, 0, 0]

        made_good(w, moments.second, self.damp, rounded)
        return codes, {name: torch.cat([part[name] for part in fitted], 1) for name in fitted[0]}


@dataclass(frozen=True)
class SearchedScale:
    """To the nearest value, with the scale of every group that has the least error of its outputs.

    scale = c max |w|, c of ``points`` from ``low`` to ``high``, that minimises e^T E[x x^T] e of its errors e
    Source: Wu et al. 2020, EasyQuant (arXiv 2006.16669), with squared errors, since a velocity has a size.

    >>> SearchedScale(points=3).low
    0.5
    """

    low: Annotated[float, Range(above=0, most=1)] = 0.5
    high: Annotated[float, Range(least=1)] = 1.2
    points: Count = 36

    @property
    def calibrated(self) -> bool:
        return True

    def __call__(self, grid: Grid, w: Tensor, moments: Moments | None) -> tuple[Tensor, dict[str, Tensor]]:
        codes, best = Nearest()(grid, w)
        if moments is None:
            return codes, best
        groups, size = grid.grouped(w), grid.size(w)
        second = F.pad(moments.second.to(w), (0, -w.shape[1] % size, 0, -w.shape[1] % size))
        blocks = torch.stack([second[i : i + size, i : i + size] for i in range(0, len(second), size)])

        def error(fitted: Mapping[str, Tensor]) -> Tensor:
            e = groups - grid.value(grid.nearest(groups, fitted), fitted)
            return torch.einsum("ogi,gij,ogj->og", e, blocks, e)

        least = error(best)
        for c in torch.linspace(self.low, self.high, self.points).tolist():
            fitted = grid.fit(c * groups)
            now = error(fitted)
            better = now < least
            least = torch.where(better, now, least)
            best = {name: torch.where(better, fitted[name], old) for name, old in best.items()}
        return grid.nearest(groups, best).flatten(1)[:, : w.shape[1]], best


@dataclass(frozen=True)
class MeanSize:
    """To the nearest value, with a range that follows the mean size of a group; larger numbers take the last value.

    largest value = times mean |w|
    With two bits it has half the error of a range that ends at the largest number, and with four it has more.
    Source: Liu et al. 2023, "Oscillation-free Quantization for Low-bit Vision Transformers" (arXiv 2302.02210), StatsQ.

    >>> MeanSize().times
    1.5
    """

    times: Positive = 1.5

    @property
    def calibrated(self) -> bool:
        return False

    def __call__(self, grid: Grid, w: Tensor, moments: Moments | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        groups = grid.grouped(w)
        counts = grid.grouped(torch.ones_like(w)).sum(-1, keepdim=True)
        largest = groups.abs().amax(-1, keepdim=True)
        mean = groups.abs().sum(-1, keepdim=True) / counts
        fitted = grid.fit(groups * (self.times * mean / largest.clamp(min=torch.finfo(w.dtype).tiny)))
        return grid.nearest(groups, fitted).flatten(1)[:, : w.shape[1]], fitted


def made_good(w: Tensor, second: Tensor, damp: float, chosen: Callable[[int, Tensor], Tensor]) -> Tensor:
    """The weight [out,in] whose column j is ``chosen(j, w)`` [out], with w changed by the errors of earlier columns."""
    inverse = torch.linalg.inv(damped(second, damp))
    upper, w = torch.linalg.cholesky(inverse, upper=True), w.double().clone()
    for j in range(w.shape[1]):
        q = chosen(j, w).double()
        error = (w[:, j] - q) / upper[j, j]
        w[:, j + 1 :] -= error[:, None] * upper[j, j + 1 :]
        w[:, j] = q
    return w


def damped(second: Tensor, damp: float) -> Tensor:
    """A second moment [in,in] with a multiple of its mean diagonal added, so that it has an inverse."""
    mean = second.diagonal().mean().clamp(min=1e-30)
    return second + damp * mean * torch.eye(len(second), dtype=second.dtype, device=second.device)
