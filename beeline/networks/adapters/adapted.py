"""A network with changed weights: few numbers are trained, and the network stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from beeline.networks.adapters.delta import Delta, LoRA, change_layers, changed_layers, settle_changes
from beeline.networks.adapters.inside import Reparametrized, with_backbone


class Adapted(Reparametrized):
    """A network in which a delta changes the weights of layers.

    W' = W + amount (delta(W) - W) for every chosen layer
    Only the numbers of the delta are trained.  With ``amount`` 0 the network is that inside, bit for bit.
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
        amount: float = 1.0,  # 0 is the network inside, 1 the trained change; others lie on the line through both
    ):
        super().__init__()
        self.settings: dict[str, Any] = {"delta": delta, "layers": list(layers), "amount": amount}
        self.field = field.requires_grad_(False)
        change_layers(self.field, delta, layers, amount)

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"field": self.field, **self.settings}

    def merged(self) -> nn.Module:
        """A network like that inside whose weights are the changed ones."""
        made = copy.deepcopy(self.field)
        settle_changes(made)
        return made.requires_grad_(False)

    def at(self, amount: float) -> Adapted:
        """A copy with another amount."""
        made = copy.deepcopy(self)
        made.settings["amount"] = amount
        for layer in changed_layers(made.field).values():
            last: Any = layer.changes[-1]
            last.amount = amount
        return made


def adapted(field: Any, delta: Delta, layers: Sequence[str] = (), amount: float = 1.0) -> nn.Module:
    """A copy of a field whose network is changed by a delta; in a ``Network`` it is the backbone.

    Raises ValueError for layers that the network does not have, and for a delta that does not fit one of them.
    """
    return with_backbone(field, lambda net: Adapted(net, delta, layers, amount))


def merged(field: Any) -> nn.Module:
    """A copy of a field in which changed weights are its own; the field is copied as it is where nothing is changed."""
    return with_backbone(field, lambda net: net.merged() if isinstance(net, Adapted) else net)
