"""Unit vectors with a known density: data on a sphere."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.data.modality import DataSetBase
from beeline.data.points import Points, PointSet


@dataclass(frozen=True)
class Directions(DataSetBase):
    """A finite sample of a mixture of von Mises-Fisher distributions on the sphere.

    p(x) = 1/K sum_k c exp(kappa <m_k, x>),  c = kappa / (4 pi sinh kappa), on the sphere |x| = 1
    Values are not standardised, so the data stay on the sphere.  Sampled by the inverse distribution function of <m,
    x>.
    Source: Fisher 1953, "Dispersion on a sphere".

    >>> data, held = Directions(n=10).load()
    >>> bool(abs((data.values**2).sum(1) - 1).max() < 1e-12)
    True
    """

    modes: tuple[tuple[float, ...], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (-1.0, -1.0, -1.0))
    kappa: float = 20.0  # concentration around each mode, above 0; the angle from it is about 1 / sqrt(kappa)
    n: int = 20_000  # training points
    kept: int = 5_000  # held-out points
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "modes", tuple(tuple(float(v) for v in mode) for mode in self.modes))
        require(
            len(self.modes) > 0 and all(len(m) == 3 and math.hypot(*m) > 0 for m in self.modes),
            f"Directions got modes={self.modes}, but a mode is three numbers, not all 0; give at least one",
        )
        require(
            0 < self.kappa <= 500 and self.n >= 1 and self.kept >= 1,
            f"Directions got kappa={self.kappa}, n={self.n}, kept={self.kept}, but kappa lies in (0, 500], and n and "
            "kept are at least 1; change it",
        )

    def modality(self) -> Points:
        return Points(standardise=False)

    def load(self) -> tuple[PointSet, PointSet]:
        """(training, held-out) points."""
        rng = Rng(self.seed)
        train, held = self.sample(self.n, rng.fork("train")), self.sample(self.kept, rng.fork("held-out"))
        return PointSet(train.numpy(), ("x", "y", "z")), PointSet(held.numpy(), ("x", "y", "z"))

    def sample(self, n: int, rng: Rng) -> Tensor:
        """[n,3] float64 points."""
        mode = self._units()[rng.fork("mode").integers(len(self.modes), n)]
        u = rng.fork("height").fill(torch.empty(n, dtype=torch.float64))
        height = 1 + torch.log(u + (1 - u) * math.exp(-2 * self.kappa)) / self.kappa  # <m, x>
        around = rng.fork("around").normal(torch.empty(n, 3, dtype=torch.float64))
        around = around - (around * mode).sum(1, keepdim=True) * mode
        made = height[:, None] * mode + (1 - height**2).clamp(min=0).sqrt()[:, None] * around / around.norm(
            dim=1, keepdim=True
        )
        return made / made.norm(dim=1, keepdim=True)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of unit vectors [B,3], in nats per unit of area, [B]."""
        log_c = math.log(self.kappa / (2 * math.pi)) - self.kappa - math.log1p(-math.exp(-2 * self.kappa))
        logs = self.kappa * (x.double() @ self._units().T)
        return torch.logsumexp(logs, 1) - math.log(len(self.modes)) + log_c

    def _units(self) -> Tensor:
        modes = torch.tensor(self.modes, dtype=torch.float64)
        return modes / modes.norm(dim=1, keepdim=True)
