"""Guidance that a network learned itself: its scale goes in as a condition."""

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
    """The guided model of guidance-free training at a scale: one network pass where guidance takes two.

    v = v(x, t, c, beta = 1/scale)
    Assumes a network trained with the objective GuidanceFree, and named conditions.
    Source: Chen et al. 2025, "Visual Generation Without Guidance" (arXiv 2501.15420).

    >>> told = Temperature(2.0)(lambda x, t, cond: cond["beta"], {"label": torch.tensor([3])})
    >>> told(torch.zeros(1, 1), torch.zeros(1))
    tensor([[0.5000]])
    """

    scale: float = 1.5  # of the guidance; 1 is none, up to 10 (below beta = 0.1 nothing was learned)

    def __post_init__(self) -> None:
        require(
            1 <= self.scale <= 10,
            f"Temperature got scale={self.scale}; a model trained without guidance knows scales from 1 to about 10: "
            "give one of them",
        )

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        require(
            isinstance(cond, Mapping),
            "Temperature was used without named conditions; it adds 'beta' to them: pass cond={'label': ...}",
        )
        assert isinstance(cond, Mapping)
        first = next(leaf for _, leaf in leaves(cond))
        beta = torch.full((len(first), 1), 1 / self.scale, device=first.device)
        return bind(field, {**cond, "beta": beta}, repeat=True)

    def calls(self, t: float) -> int:
        return 1
