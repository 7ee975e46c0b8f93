"""Branches: what stands beside layers of a network, and where."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor, nn

from beeline.networks.adapters.amounts import Amount, amount_of
from beeline.networks.adapters.delta import Extra
from beeline.networks.fp32 import zeroed

WHOLE, MIXING, FEEDING, TOKENS = "whole", "mixing", "feeding", "tokens"  # parts of a layer beside which branches stand


class Site(NamedTuple):
    """The layer beside which a branch stands."""

    net: nn.Module  # the network without wrappers
    layer: nn.Module
    width: int  # channels of its output


class Place(Protocol):
    """Where a branch stands in a network."""

    def find(self, net: nn.Module, branch: Branch) -> dict[str, str]:
        """The names of layers, with the part of each; ValueError for a network without such layers."""
        ...


class Branch(Protocol):
    """A module beside layers of a network: a setting that builds the module of every layer.

    It has to be no change at first.
    """

    terms: ClassVar[Mapping[str, float]] = {}  # the weights in the loss of the notes that its modules give

    @property
    def places(self) -> Sequence[Place]:
        """Where it stands."""
        ...

    def build(self, site: Site) -> BranchModule:
        """The module of a layer; random numbers come from torch's ambient generator."""
        ...


class BranchModule(Extra, ABC):
    """What stands beside a layer, with the amount of its change."""

    amount: float | Amount = 1.0
    place: str = ""  # the name of the layer

    def forward(self, inner: Callable[..., Any], layer: nn.Module, x: Any, *told: Any) -> Any:
        """The output of ``inner``, which is the layer or a part of it, with the branch; with amount 0 that alone."""
        gain = amount_of(self.amount, self.place)
        return inner(x, *told) if gain == 0 else self.act(inner, layer, gain, x, *told)

    @abstractmethod
    def act(self, inner: Callable[..., Any], layer: nn.Module, gain: float, x: Any, *told: Any) -> Any:
        """The output with a share ``gain`` of the change."""


class Added(BranchModule):
    """y <- y + gain added(x, y)."""

    def act(self, inner: Callable[..., Any], layer: nn.Module, gain: float, x: Any, *told: Any) -> Any:
        out = inner(x, *told)
        y, more = (out[0], out[1:]) if isinstance(out, tuple) else (out, None)
        y = y + gain * self.added(layer, x, y, *told).to(y.dtype)
        return y if more is None else (y, *more)

    @abstractmethod
    def added(self, layer: nn.Module, x: Any, y: Tensor, *told: Any) -> Tensor:
        """What is added to the output ``y`` of a layer for its input ``x``."""


class Funnel(nn.Module):
    """U relu(D x + d) + u, with U = u = 0 at first, in the dtype of its numbers."""

    def __init__(self, width: int, rank: int):
        super().__init__()
        self.down, self.up = nn.Linear(width, rank), zeroed(nn.Linear(rank, width))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.up(self.down(x.to(self.down.weight.dtype)).relu())
        return made


class Beside(nn.Module):
    """A layer with branches beside it or beside its parts; its own weights keep their names."""

    branches: nn.ModuleDict

    def forward(self, x: Any, *told: Any) -> Any:
        return self._through(WHOLE, super().forward, x, *told)

    def mixing(self, h: Tensor, *told: Any) -> Any:
        return self._through(MIXING, super().mixing, h, *told)  # type: ignore[misc]

    def feeding(self, h: Tensor, *told: Any) -> Any:
        return self._through(FEEDING, super().feeding, h, *told)  # type: ignore[misc]

    def tokens(self, cond: Any, *told: Any) -> Any:
        return self._through(TOKENS, super().tokens, cond, *told)  # type: ignore[misc]

    def _through(self, part: str, inner: Callable[..., Any], x: Any, *told: Any) -> Any:
        for branch in self.branches[part] if part in self.branches else ():  # type: ignore[union-attr]
            inner = functools.partial(branch, inner, self)
        return inner(x, *told)
