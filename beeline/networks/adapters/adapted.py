"""A network with changed weights: few numbers are trained, and the network stays as it is."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Stages
from beeline.core.errors import require
from beeline.core.types import Cond, map_cond
from beeline.networks.adapters.amounts import GIVEN, TIME, Amount, Apart
from beeline.networks.adapters.delta import Delta, LoRA, change_layers, changed_layers, settle_changes
from beeline.networks.adapters.inside import Reparametrized, with_backbone


class WithAmount(Reparametrized, ABC):
    """Base of networks with a change whose amount may depend on the time."""

    settings: dict[str, Any]

    @property
    def timed(self) -> bool:
        """Whether the amount depends on the time."""
        return not isinstance(self.settings["amount"], int | float) and bool(self.settings["amount"].timed)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        if not self.timed:
            return self._inside(x, t, cond, s)
        times, group = t.reshape(len(x), -1).unique(dim=0, return_inverse=True)
        require(
            times.shape[1] == 1,
            f"{self.settings['amount']!r} got times of shape {tuple(t.shape)}, with several in a row; give one time "
            "for every row, or an amount that is one number",
        )
        if len(times) == 1:
            return self._at(float(times), x, t, cond, s)
        rows = [(group == i).nonzero()[:, 0] for i in range(len(times))]
        made = [
            self._at(time, x[r], t[r], _of_rows(cond, r), _of_rows(s, r))
            for time, r in zip(times.flatten().tolist(), rows, strict=True)
        ]
        return torch.cat(made)[torch.cat(rows).argsort()]

    def _at(self, time: float, x: Tensor, t: Tensor, cond: Cond, s: Tensor | None) -> Tensor:
        """The output with the amounts of one time."""
        token = TIME.set(time)
        try:
            return self._inside(x, t, cond, s)
        finally:
            TIME.reset(token)

    def _inside(self, x: Tensor, t: Tensor, cond: Cond, s: Tensor | None) -> Tensor:
        """The output of the network inside with its change."""
        return super().forward(x, t, cond, s)

    def stages(self, x: Tensor, t: Tensor, cond: Any = None) -> Stages | None:
        return None if self.timed else super().stages(x, t, cond)

    @abstractmethod
    def merged(self) -> nn.Module:
        """A network like that inside, whose weights are the changed ones; ValueError where no weights do the same."""


class Adapted(WithAmount):
    """A network in which a delta changes the weights of layers.

    W' = W + amount (delta(W) - W) for every chosen layer
    Only the numbers of the delta are trained.  With ``amount`` 0 the network is that inside, bit for bit.  Several
    deltas are networks inside one another, the first inside; those that add commute, others act in this order.
    An amount that depends on the time is evaluated once for every different time of a batch.
    Source: Houlsby et al. 2019 (arXiv 1902.00751), adapters; each delta names its own.

    >>> import torch
    >>> from beeline.networks.mlp import MLP
    >>> net = Adapted(MLP(2, width=8), LoRA(2))
    >>> torch.equal(net(torch.ones(1, 2), torch.zeros(1)), net.merged()(torch.ones(1, 2), torch.zeros(1)))
    True
    """

    def __init__(
        self,
        field: nn.Module,
        delta: Delta = LoRA(),
        layers: Sequence[str] = (),  # ends of names of layers; none: all layers of the blocks
        amount: float | Amount = 1.0,  # 0 is the network inside, 1 the change; others lie on the line through both
    ):
        super().__init__()
        self.settings: dict[str, Any] = {"delta": delta, "layers": list(layers), "amount": amount}
        self.field = field.requires_grad_(False)
        change_layers(self.field, delta, layers, amount)

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"field": self.field, **self.settings}

    def _inside(self, x: Tensor, t: Tensor, cond: Cond, s: Tensor | None) -> Tensor:
        """The output of the network inside, whose gates see the condition."""
        if not self.settings["delta"].mixes:
            return super()._inside(x, t, cond, s)
        token = GIVEN.set((cond,))
        try:
            return super()._inside(x, t, cond, s)
        finally:
            GIVEN.reset(token)

    def stages(self, x: Tensor, t: Tensor, cond: Any = None) -> Stages | None:
        return None if self.settings["delta"].mixes else super().stages(x, t, cond)

    def merged(self) -> nn.Module:
        """A network like that inside all adapters, whose weights are the changed ones.

        Raises ValueError for an amount that depends on the time.
        """
        require(
            not self.timed,
            f"an adapter with {self.settings['amount']!r} was to be merged, and its weights are different at every "
            "time; keep it unmerged, or merge .at(1.0)",
        )
        made: nn.Module = copy.deepcopy(self)
        settle_changes(made)
        while isinstance(made, Adapted):
            made = made.field
        return made.requires_grad_(False)

    def at(self, amount: float | Amount) -> Adapted:
        """A copy with another amount."""
        made = copy.deepcopy(self)
        made.settings["amount"] = amount
        for layer in changed_layers(made.field).values():
            last: Any = layer.changes[-1]
            if not isinstance(last.amount, Apart):  # of a control inside
                last.amount = amount
        return made


def _of_rows(part: Any, rows: Tensor) -> Any:
    """Some rows of a condition, of a tensor [B,...] or of nothing."""
    return map_cond(lambda leaf: leaf[rows], part)


def adapted(field: Any, delta: Delta, layers: Sequence[str] = (), amount: float | Amount = 1.0) -> nn.Module:
    """A copy of a field whose network is changed by a delta; in a ``Network`` it is the backbone.

    Raises ValueError for layers that the network does not have, and for a delta that does not fit one of them.
    """
    return with_backbone(field, lambda net: Adapted(net, delta, layers, amount))


def merged(field: Any) -> nn.Module:
    """A copy of a field in which changed weights are its own; the field is copied as it is where nothing is changed.

    Raises ValueError for a branch, which no weight can express.
    """
    return with_backbone(field, lambda net: net.merged() if isinstance(net, WithAmount) else net)
