"""Couplings of stored pairs."""

from __future__ import annotations

import math
from dataclasses import replace

from beeline.core.errors import require
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch


@dataclass(frozen=True)
class Annealed:
    """Stored pairs whose source points are mixed with new noise in a fixed proportion.

    x0' = sqrt(1 - blend^2) x0 + blend n,  n ~ N(0, I)
    Assumes stored pairs with a Gaussian source, which the mixture preserves; blend 1 is independent, 0 is reflow.
    Source: Zhu et al. 2024, SlimFlow (arXiv 2407.12718), annealing reflow.

    >>> import torch
    >>> Annealed(0.0)(Batch(torch.ones(1, 2), torch.zeros(1, 2)), Rng(0)).x0
    tensor([[0., 0.]])
    """

    blend: float = 0.5  # 0 to 1
    independent = False

    def __post_init__(self) -> None:
        require(
            0 <= self.blend <= 1,
            f"Annealed got blend={self.blend}; it must lie between 0 (reflow) and 1 (independent): 0.5 is usual",
        )

    def __call__(self, batch: Batch, rng: Rng) -> Batch:
        require(
            batch.x0 is not None,
            "Annealed got a batch without x0; it couples stored pairs only: create them with reflow_pairs(...)",
        )
        assert batch.x0 is not None
        if self.blend == 0:
            return batch
        noise = rng.fork("anneal").normal(batch.x0)
        return replace(batch, x0=math.sqrt(1 - self.blend**2) * batch.x0 + self.blend * noise)
