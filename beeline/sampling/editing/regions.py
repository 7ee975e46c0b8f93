"""Regions: where an edit may change data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.fields.flow import Flow


@dataclass(frozen=True)
class GivenRegion:
    """A region that is known.

    m = values, broadcast to the data [B,*S] from their last dimensions

    >>> GivenRegion(((1.0, 0.0),))(None, torch.zeros(3, 1, 2), None, None, Rng(0)).shape
    torch.Size([3, 1, 2])
    """

    values: Any  # a tensor, an array or nested tuples of weights in [0, 1]: 1 may change

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, rng: Rng) -> Tensor:
        m = torch.as_tensor(self.values, dtype=torch.float32)
        shape = tuple(x.shape[-m.ndim :]) if m.ndim < x.ndim else tuple(x.shape)
        fits = m.ndim <= x.ndim and all(a in (1, b) for a, b in zip(m.shape, shape, strict=True))
        require(
            fits,
            f"the region has shape {tuple(m.shape)} for data of shape {tuple(x.shape[1:])}; give a mask of "
            f"{' x '.join(map(str, x.shape[-2:]))}",
        )
        return m.to(x.device).expand(x.shape)
