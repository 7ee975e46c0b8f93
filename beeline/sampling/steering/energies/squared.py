"""Distances to given data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import Positive, dataclass
from beeline.core.types import Cond


@dataclass(frozen=True)
class Near:
    """Minus the log-density of a Gaussian around a given datum, without its constant.

    E = |x1 - target|^2 / (2 deviation^2)

    >>> float(Near((1.0, 1.0), deviation=0.5)(torch.zeros(1, 2), torch.zeros(1)))
    4.0
    """

    target: Any  # numbers of the shape of a sample, or of a batch of samples: a tensor or nested lists
    deviation: Positive = 1.0  # in the units of the data of the flow
    rows: tuple[int, int] | None = None  # rows of a batch of targets that are used; None for all

    def for_rows(self, start: int, end: int) -> Near:
        """The energy of rows start .. end-1 of a batch."""
        first = 0 if self.rows is None else self.rows[0]
        return replace(self, rows=(first + start, first + end))

    def __call__(self, x1: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        target = torch.as_tensor(self.target, dtype=x1.dtype, device=x1.device)
        if self.rows is not None and target.ndim == x1.ndim:
            target = target[slice(*self.rows)]
        require(
            target.shape in (x1.shape, x1.shape[1:]),
            f"Near got a target of shape {tuple(target.shape)} for samples of shape {tuple(x1.shape)}; the distance is "
            f"taken number by number: give a target of shape {tuple(x1.shape[1:])}",
        )
        return (x1 - target).square().flatten(1).sum(1) / (2 * self.deviation**2)
