"""Low-rank changes of one network, of which every row of a batch takes its own amounts."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from beeline.config import build as config
from beeline.core.declared import unwrapped
from beeline.fields.flow import Network
from beeline.networks.adapters.adapted import Adapted
from beeline.networks.adapters.delta import Changed, changed_layers
from beeline.networks.adapters.factors import Factors, factored
from beeline.networks.adapters.inside import Reparametrized, backbone_of
from beeline.networks.adapters.recast import recast, replaced
from beeline.runs.adapters.files import change_of, plain_name

CHANGES = ".changes."  # in the names of the numbers of deltas


class Amounts:
    """How much of every one of ``count`` changes the rows of a batch take."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.rows: Tensor | None = None  # [B,K] on the CPU
        self.used: list[int] = []  # changes that some row takes

    def __deepcopy__(self, memo: dict[int, Any]) -> Amounts:
        return self  # shared by the layers of a network

    def take(self, rows: Tensor | None) -> None:
        """Set the amounts of the next batch; None takes nothing."""
        self.rows = rows
        self.used = [] if rows is None else rows.any(0).nonzero()[:, 0].tolist()

    def of(self, k: int, x: Tensor) -> Tensor:
        """The amounts [R,1,...] of change ``k`` for the input [R,...] of a layer; rows of a sample are together."""
        assert self.rows is not None
        each = self.rows[:, k].to(x).repeat_interleave(len(x) // len(self.rows))
        return each.view(-1, *[1] * (x.ndim - 1))


class Gated(nn.Module):
    """A linear layer with low-rank changes: y = W x + b + sum_k a_k U_k D_k x."""

    changes: Mapping[int, Factors]
    amounts: Amounts

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x)  # type: ignore[misc]
        for k in self.amounts.used:
            if k in self.changes:
                change = self.changes[k]
                y = y + self.amounts.of(k, x) * F.linear(F.linear(x, change.down), change.up)
        return y


class Deltas(Reparametrized):
    """A network with the weights of ``field`` and low-rank changes of its linear layers, each by the name of its layer.

    ``amounts`` says what the rows take.  A row that takes nothing has the output of ``field``, bit for bit, and a row
    does not depend on what others take.
    """

    def __init__(self, field: nn.Module, changes: Sequence[Mapping[str, Factors]]):
        super().__init__()
        weights = {id(part): part for part in itertools.chain(field.parameters(), field.buffers())}
        self.field, self.amounts = copy.deepcopy(field, weights), Amounts(len(changes))
        inside = backbone_of(self.field)
        for name in sorted({name for change in changes for name in change}):
            layer: Any = recast(inside.get_submodule(name), Gated)
            w = layer.weight
            layer.changes = {
                k: Factors(change[name].up.to(w), change[name].down.to(w))
                for k, change in enumerate(changes)
                if name in change
            }
            layer.amounts = self.amounts
            replaced(inside, name, layer)


def low_rank(field: Any) -> dict[str, Factors] | None:
    """The changes of the layers of an adapted network by name; None where it has others than of low rank."""
    net = backbone_of(field)
    if not isinstance(net, Adapted) or net.timed:
        return None
    found = {plain_name(name, net): layer for name, layer in changed_layers(net).items()}
    if not all(isinstance(layer, nn.Linear) and not _moves_bias(layer) for layer in found.values()):
        return None
    changes = {name: _factors(layer) for name, layer in found.items()}
    small = all(change.rank * sum(change.shape) < change.shape[0] * change.shape[1] for change in changes.values())
    return changes if small else None


def _moves_bias(layer: Changed) -> bool:
    return any(change.delta.moves_bias for change in layer.changes)  # type: ignore[union-attr]


def _factors(layer: Changed) -> Factors:
    change, length = change_of(layer)
    if length is None:
        return change
    exact = factored((layer.weight - layer.own).detach().flatten(1).double())
    return Factors(exact.up.float(), exact.down.float())


def fingerprint(field: Any) -> str:
    """A hash of a network without its adapters: equal for a base and for all that were adapted from it."""
    whole, net = unwrapped(field), backbone_of(field)
    while isinstance(net, Adapted):
        net = net.field
    said = [config.describe(net)]
    if isinstance(whole, Network):
        said += [type(whole).__name__, config.describe(whole.path), config.describe(whole.prediction)]
    found = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
    for name, value in sorted(net.state_dict().items()):
        if CHANGES not in f".{name}":
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
