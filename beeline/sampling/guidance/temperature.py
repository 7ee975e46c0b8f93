"""Guidance scale as a network input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from beeline.core.errors import require
from beeline.core.ranges import dataclass
from beeline.core.types import Cond, Dynamics, leaves
from beeline.fields.flow import bind


@dataclass(frozen=True)
class Temperature:
    """Sampling of guidance-free training at a guidance scale, with one network pass per evaluation.

    v = v(x, t, c, beta = 1/scale)
    Assumes a network trained with the objective GuidanceFree, and named conditions.
    Source: Chen et al. 2025, "Visual Generation Without Guidance" (arXiv 2501.15420).

    >>> f = Temperature(2.0)(lambda x, t, cond: cond["beta"], {"label": torch.tensor([3])})
    >>> f(torch.zeros(1, 1), torch.zeros(1))
    tensor([[0.5000]])
    """

    scale: float = 1.5  # guidance scale from 1 (none) to 10; smaller beta is not trained

    def __post_init__(self) -> None:
        require(
            1 <= self.scale <= 10,
            f"Temperature got scale={self.scale}; guidance-free training covers scales from 1 to 10: set one of them",
        )

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        require(
            isinstance(cond, Mapping),
            "Temperature got no named conditions; it adds 'beta' to them: pass cond={'label': ...}",
        )
        assert isinstance(cond, Mapping)
        first = next(leaf for _, leaf in leaves(cond))
        beta = torch.full((len(first), 1), 1 / self.scale, device=first.device)
        return bind(field, {**cond, "beta": beta}, repeat=True)

    def calls(self, t: float) -> int:
        return 1
