"""Nearest neighbours among features, and the metrics that count them: precision, recall, density and coverage."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.data import Better, Features
from beeline.core.ranges import Count, Range, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.evaluation.features import Identity
from beeline.evaluation.metrics import FeatureMetric, some

BLOCK = 1024  # rows of x per matrix of distances
COLUMNS = 8192  # rows of y per matrix of distances


def nearest(x: Tensor, y: Tensor, rows: int = BLOCK, columns: int = COLUMNS) -> tuple[Tensor, Tensor]:
    """Distance and index of the nearest row of ``y`` [M,D] for every row of ``x`` [N,D]: two tensors [N].

    Candidates are found by products of blocks, so that the memory is bounded; the distance to the one found is computed
    from the difference, so that it is 0 for a copy.
    """
    require(
        len(y) > 0 and x.shape[1:] == y.shape[1:],
        f"neighbours of data of shape {tuple(x.shape[1:])} were looked for among {len(y)} of shape "
        f"{tuple(y.shape[1:])}; both have one shape, and there has to be a neighbour",
    )
    centre = y.mean(0)  # large offsets would cost digits
    lengths = [(part - centre).square().sum(1) for part in torch.split(y, columns)]
    found: list[Tensor] = []
    for part in torch.split(x, rows):
        part = part - centre
        best, index = torch.full((len(part),), torch.inf, dtype=x.dtype, device=x.device), None
        start = 0
        for other, length in zip(torch.split(y, columns), lengths, strict=True):
            value, at = torch.addmm(length, part, (other - centre).T, alpha=-2).min(1)
            nearer = value < best
            index = at + start if index is None else torch.where(nearer, at + start, index)
            best, start = torch.where(nearer, value, best), start + len(other)
        assert index is not None
        found.append(index)
    index = torch.cat(found)
    distance = [
        (a - y[i]).double().norm(dim=1) for a, i in zip(torch.split(x, rows), torch.split(index, rows), strict=True)
    ]
    return torch.cat(distance), index


def radii(x: Tensor, k: int, rows: int = BLOCK) -> Tensor:
    """The distance of every row to its k-th nearest other row, [N]."""
    made = []
    for start in range(0, len(x), rows):
        table = torch.cdist(x[start : start + rows], x)
        table.diagonal(start).fill_(torch.inf)  # a row is not its own neighbour
        made.append(table.kthvalue(k, dim=1).values)
    return torch.cat(made)


@dataclass(frozen=True)
class Neighbourhoods(FeatureMetric):
    """Base of metrics that ask which samples are in the balls around others, up to the k-th nearest neighbour."""

    features: Features = field(default_factory=Identity)
    k: Count = 3  # neighbours
    rows: Annotated[int, Range(least=2)] = 5000  # largest random subset of each sample; the cost is quadratic in it
    better: ClassVar[Better] = "higher"

    def least(self, size: int) -> int:
        return self.k + 1

    def compare(self, real: Tensor, made: Tensor, rng: Rng, cond: Cond = None) -> float:
        a, b = some(real, self.rows, rng.fork("real")), some(made, self.rows, rng.fork("made"))
        centre = a.mean(0)
        return self.share(a - centre, b - centre)

    def share(self, real: Tensor, made: Tensor) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class Precision(Neighbourhoods):
    """Improved precision: the share of generated samples within the real data, which says how good they look.

    mean_j [some i: |y_j - x_i| <= r_k(x_i)],  r_k the distance to the k-th nearest real neighbour
    Assumes equal numbers where values are compared: balls shrink as samples become more.
    Source: Kynkaanniemi et al. 2019, "Improved Precision and Recall" (arXiv 1904.06991).

    >>> x = torch.arange(6.0)[:, None]
    >>> Precision(k=1)(x, torch.cat([x[:3] + 0.5, x[:3] - 9]), Rng(0))
    0.5
    """

    name: ClassVar[str] = "precision"

    def share(self, real: Tensor, made: Tensor) -> float:
        return within_balls(made, real, radii(real, self.k))


@dataclass(frozen=True)
class Recall(Neighbourhoods):
    """Improved recall: the share of real data within the generated samples, which says how much is covered.

    mean_i [some j: |x_i - y_j| <= r_k(y_j)],  r_k the distance to the k-th nearest generated neighbour
    Assumes equal numbers where values are compared.  Outliers among the samples have large balls; see Coverage.
    Source: Kynkaanniemi et al. 2019, "Improved Precision and Recall" (arXiv 1904.06991).

    >>> x = torch.arange(6.0)[:, None]
    >>> Recall(k=1)(x, x[:4], Rng(0)) < 1
    True
    """

    name: ClassVar[str] = "recall"

    def share(self, real: Tensor, made: Tensor) -> float:
        return within_balls(real, made, radii(made, self.k))


@dataclass(frozen=True)
class Density(Neighbourhoods):
    """Density: in how many real balls a generated sample is, over k; robust against outliers among the real data.

    mean_j sum_i [|y_j - x_i| <= r_k(x_i)] / k, which is about 1 for the distribution of the data and may exceed it
    Source: Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics" (arXiv 2002.09797).

    >>> x = torch.arange(6.0)[:, None]
    >>> Density(k=1)(x, x, Rng(0)) > 1
    True
    """

    k: Count = 5
    name: ClassVar[str] = "density"

    def share(self, real: Tensor, made: Tensor) -> float:
        radius = radii(real, self.k)
        inside = sum(int((torch.cdist(part, real) <= radius).sum()) for part in torch.split(made, BLOCK))
        return inside / (self.k * len(made))


@dataclass(frozen=True)
class Coverage(Neighbourhoods):
    """Coverage: the share of real balls that hold a generated sample; recall that outliers do not raise.

    mean_i [some j: |y_j - x_i| <= r_k(x_i)], whose expectation is 1 - (N-1)...(N-k) / (2N-1)...(2N-k) for N of each
    Source: Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics" (arXiv 2002.09797).

    >>> x = torch.arange(6.0)[:, None]
    >>> Coverage(k=1)(x, x[:3], Rng(0)) < 1
    True
    """

    k: Count = 5
    name: ClassVar[str] = "coverage"

    def share(self, real: Tensor, made: Tensor) -> float:
        distance, radius = nearest(real, made)[0], radii(real, self.k)
        return float((distance <= radius).double().mean())


def within_balls(x: Tensor, centres: Tensor, radius: Tensor) -> float:
    """The share of rows of ``x`` in one of the balls around ``centres``."""
    inside = [(torch.cdist(part, centres) <= radius).any(1) for part in torch.split(x, BLOCK)]
    return float(torch.cat(inside).double().mean())
