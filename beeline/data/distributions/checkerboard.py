"""The checkerboard: a uniform distribution with sharp edges."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.data.distributions.distribution import Distribution, Marginal, label_of

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


class _Axis(NamedTuple):
    """One coordinate x = a u + b z with u uniform in one column of the board; all [B, columns]."""

    log_density: Tensor
    score: Tensor
    mean: Tensor  # E[u | x, column]


@dataclass(frozen=True)
class Checkerboard(Distribution):
    """The uniform distribution on the dark squares of a checkerboard in the plane.

    p(x) = 1 / (dark squares side^2) on them;  the marginals p_t are sums of products of differences of normal
    distribution functions, whose posterior means are those of truncated normals: all in closed form
    At t = 1 the score is 0, its value inside the squares; it is not defined on their edges and outside.
    Source: Grathwohl et al. 2019, "FFJORD" (arXiv 1810.01367), for the example; the formulas are elementary.

    >>> Checkerboard().log_prob(torch.tensor([[0.5, 0.5], [0.5, -0.5]])).exp()
    tensor([0.0312, 0.0000])
    """

    cells: int = 4  # per side of the board, at least 2
    side: float = 2.0  # of one square; the board is centred at the origin

    def __post_init__(self) -> None:
        require(
            isinstance(self.cells, int) and self.cells >= 2 and 0 < self.side < math.inf,
            f"Checkerboard got cells={self.cells!r}, side={self.side}; a board has at least 2 cells per side, "
            "of a size above 0: 4 and 2.0 are usual",
        )

    @property
    def dim(self) -> int:
        return 2

    def dark(self) -> Tensor:
        """[squares,2] int64: column and row of the dark squares; the lower left square is dark."""
        index = torch.cartesian_prod(torch.arange(self.cells), torch.arange(self.cells))
        return index[index.sum(1) % 2 == 0]

    def sample_labelled(self, n: int, rng: Rng, label: int | None) -> tuple[Tensor, None]:
        dark = self.dark()
        square = dark[rng.fork("square").integers(len(dark), n)]
        place = rng.fork("place").fill(torch.empty(n, 2, dtype=torch.float64))
        return self.side * (square + place - self.cells / 2), None

    def log_prob(self, x: Tensor, cond: Cond = None) -> Tensor:
        x = self._fit(x)
        self._refuse_labels(cond)
        cell = torch.floor(x / self.side + self.cells / 2)
        inside = ((cell >= 0) & (cell < self.cells)).all(1) & (cell.sum(1) % 2 == 0)
        value = -math.log(len(self.dark()) * self.side**2)
        return torch.where(inside, torch.full_like(x[:, 0], value), -math.inf)

    def marginal(self, x: Tensor, a: Tensor, b: Tensor, cond: Cond = None) -> Marginal:
        self._refuse_labels(cond)
        first, second = (self._axis(x[:, i], a, b) for i in (0, 1))
        column, row = self.dark().to(x.device).unbind(1)
        logs = first.log_density[:, column] + second.log_density[:, row] - math.log(len(column))
        share = logs.softmax(1)
        both = [
            torch.stack([(share * p[:, column]).sum(1), (share * q[:, row]).sum(1)], 1)
            for p, q in ((first.score, second.score), (first.mean, second.mean))
        ]
        return Marginal(logs.logsumexp(1), both[0], both[1])

    def moments(self) -> tuple[Tensor, Tensor]:
        centres = self.side * (self.dark().double() + 0.5 - self.cells / 2)
        apart = centres - centres.mean(0)
        inner = torch.eye(2, dtype=torch.float64) * self.side**2 / 12
        return centres.mean(0), apart.T @ apart / len(centres) + inner

    def _axis(self, x: Tensor, a: Tensor, b: Tensor) -> _Axis:
        low = self.side * (torch.arange(self.cells, dtype=x.dtype, device=x.device) - self.cells / 2)
        x, a, done = x[:, None], a[:, None], b[:, None] == 0
        b = b[:, None].clamp(min=torch.finfo(x.dtype).eps)
        # noise wider than a column: the uniform distribution by quadrature, free of cancellation down to a = 0;
        # narrower noise: differences of distribution functions.  Each is evaluated only where it is accurate.
        wide = a * self.side < b
        smooth = self._quadrature(x, torch.where(wide, a, 0.0), torch.where(wide, b, 1.0), low)
        sharp = self._closed(x, torch.where(wide, 1.0, a), torch.where(wide, 1.0, b), low)
        logs, score, mean = (torch.where(wide, p, q) for p, q in zip(smooth, sharp, strict=True))
        return _Axis(logs, torch.where(done, 0.0, score), mean)

    def _quadrature(self, x: Tensor, a: Tensor, b: Tensor, low: Tensor) -> _Axis:
        nodes, weights = (torch.from_numpy(part).to(x.device, x.dtype) for part in (_NODES, _WEIGHTS))
        u = low[:, None] + self.side * (nodes + 1) / 2  # [columns, nodes]
        z = (x[..., None] - a[..., None] * u) / b[..., None]
        logs = (weights / 2).log() - z * z / 2
        share = logs.softmax(-1)
        total = logs.logsumexp(-1) - b.log() - math.log(2 * math.pi) / 2
        return _Axis(total, -(share * z).sum(-1) / b, (share * u).sum(-1))

    def _closed(self, x: Tensor, a: Tensor, b: Tensor, low: Tensor) -> _Axis:
        left, right = (x - a * (low + self.side)) / b, (x - a * low) / b  # left < right
        flip = left + right > 0  # both ends mirrored, so that the smaller tail is subtracted
        top, bottom = torch.where(flip, -left, right), torch.where(flip, -right, left)
        gap = torch.exp((top - bottom) * (top + bottom) / 2)  # phi(bottom) / phi(top), at most 1
        steep, far_steep = _steepness(top), _steepness(bottom)
        rest = torch.log1p(-gap * torch.exp(steep - far_steep))
        near = torch.exp(steep - rest)  # phi(top) over the mass between the ends
        log_mass = torch.special.log_ndtr(top) + rest
        score = torch.where(flip, -1.0, 1.0) * near * (1 - gap) / b
        mean = (x + b * b * score) / a
        return _Axis(log_mass - (a * self.side).log(), score, mean)

    def _refuse_labels(self, cond: Cond) -> None:
        require(
            label_of(cond) is None,
            "Checkerboard was given a label, but its squares have none; leave cond out",
        )


def _steepness(z: Tensor) -> Tensor:
    """log of phi(z) / Phi(z), without cancellation in the lower tail."""
    half = math.log(2 * math.pi) / 2
    tail = -torch.log(torch.special.erfcx(-z.clamp(max=0.0) / math.sqrt(2)) / 2)
    body = -(z**2) / 2 - torch.special.log_ndtr(z.clamp(min=0.0))
    return torch.where(z < 0, tail, body) - half
