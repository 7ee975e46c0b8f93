"""Heavy-tailed sources."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng


@dataclass(frozen=True)
class StudentT:
    """Multivariate Student t noise with D degrees of freedom, the perturbation kernel of PFGM++.

    p(x0) proportional to (1 + |x0|^2 / D)^(-(N + D)/2) over all N coordinates;  x0 = z sqrt(D / chi^2_D)
    Assumes data of order one.  D = 1 is the Poisson flow, D to infinity the Gaussian.  The perturbed state is
    x1 + sigma x0 with sigma = b/a on any affine path; the velocity does not determine a score.
    Source: Xu et al. 2023, PFGM++ (arXiv 2302.04265), with r = sigma sqrt(D).

    >>> StudentT(64.0).sample(torch.empty(2, 3), Rng(0)).shape
    torch.Size([2, 3])
    """

    degrees: float = 2048.0  # D, above 0; smaller values have heavier tails; 64 to 2048 is usual for images
    gaussian = False

    def __post_init__(self) -> None:
        require(
            self.degrees > 0,
            f"StudentT got degrees={self.degrees}; the degrees of freedom must be above 0: 64 to 2048 is usual",
        )

    def sample(self, like: Tensor, rng: Rng) -> Tensor:
        half = torch.full((len(like),), self.degrees / 2, dtype=torch.float64)
        chi = 2 * torch._standard_gamma(half, generator=rng.fork("radius").generator())
        scale = (self.degrees / chi).sqrt().reshape((-1,) + (1,) * (like.ndim - 1))
        return rng.normal(like) * scale.to(like.device, like.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density in nats, [B]."""
        flat, d = x.flatten(1), self.degrees
        n = flat.shape[1]
        norm = math.lgamma((n + d) / 2) - math.lgamma(d / 2) - n / 2 * math.log(d * math.pi)
        return norm - (n + d) / 2 * torch.log1p((flat**2).sum(1) / d)
