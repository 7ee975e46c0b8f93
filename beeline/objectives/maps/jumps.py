"""The jumps of a batch: states, times and the map that is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from beeline.core.progress import progress
from beeline.core.protocols.objectives import Derivative
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, map_cond
from beeline.fields.flow import bind
from beeline.objectives.maps.derivatives import check_derivative
from beeline.paths.affine import AffinePath


@dataclass(frozen=True, eq=False)
class Jumps:
    """Jumps from t to s of states on the path of a batch, with the map u(x, t, s) that is trained.

    >>> import torch
    >>> from beeline.core.declared import as_map
    >>> from beeline.objectives.maps.derivatives import ForwardMode
    >>> from beeline.paths.affine import Linear
    >>> batch, t = Batch(torch.ones(3, 2), torch.zeros(3, 2)), torch.zeros(3)
    >>> net = as_map(lambda x, t, cond=None, s=None: x)
    >>> Jumps(net, batch, Linear(), batch.x0, t, t, ForwardMode(), Rng(0)).rows(0, 2).map().shape
    torch.Size([2, 2])
    """

    field: Any  # the flow map
    batch: Batch  # with its source points
    path: AffinePath
    x: Tensor  # [B,*S], states at the times ``t``
    t: Tensor  # [B]
    s: Tensor  # [B]
    derivative: Derivative
    rng: Rng
    warmed: float = 1.0  # factor of the derivative terms

    @property
    def cond(self) -> Cond:
        return self.batch.cond

    def rows(self, start: int, end: int) -> Jumps:
        """The jumps of rows start .. end-1."""
        batch = self.batch
        assert batch.x0 is not None
        cond = map_cond(lambda leaf: leaf[start:end], batch.cond)
        part = Batch(batch.x1[start:end], batch.x0[start:end], cond)
        return replace(self, batch=part, x=self.x[start:end], t=self.t[start:end], s=self.s[start:end])

    def map(self, x: Tensor | None = None, t: Tensor | None = None, s: Tensor | None = None) -> Tensor:
        """u(x, t, s), by default at the states and times of the batch."""
        return self.at(self.cond, x, t, s)

    def at(self, cond: Cond, x: Tensor | None = None, t: Tensor | None = None, s: Tensor | None = None) -> Tensor:
        """u(x, t, s) under another condition."""
        given = (self.x if x is None else x, self.t if t is None else t, self.s if s is None else s)
        u: Tensor = bind(self.field, cond)(given[0], given[1], s=given[2])
        return u

    def slope(self, *tangents: Tensor) -> tuple[Tensor, Tensor]:
        """u(x, t, s), and its derivative along the tangents of x, t and s."""
        net = bind(self.field, self.cond)
        inputs = (self.x, self.t, self.s)

        def function(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return net(x, t, s=s)  # type: ignore[no-any-return]

        if progress() == 0:  # the first step of a training
            check_derivative(function, inputs, tangents, self.derivative)
        return self.derivative(function, inputs, tangents)
