"""Compressors: a plan, which changes nothing, and the smaller network that follows from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond


class Call(NamedTuple):
    """The inputs of one evaluation of a network while it samples."""

    x: Tensor
    t: Tensor
    cond: Cond


@dataclass(frozen=True, eq=False)
class Probe:
    """Inputs of a network, recorded while it sampled, for compressors that look at activations."""

    calls: Sequence[Call]

    @torch.no_grad()
    def moments(self, network: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, Moments]:
        """Moments of the inputs of layers of a network, which is evaluated once for every call."""
        found = {name: Moments() for name in layers}
        hooks = [
            layer.register_forward_hook(lambda _, given, __, seen=found[name]: seen.add(given[0]))
            for name, layer in layers.items()
        ]
        try:
            for x, t, cond in self.calls:
                network(x, t, cond)
        finally:
            for hook in hooks:
                hook.remove()
        return found


class Moments:
    """Count, mean [in], second moment [in,in] and largest size [in] of the inputs of a layer, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: tuple[Tensor, Tensor, Tensor] | None = None

    def add(self, x: Tensor) -> None:
        """Add inputs [...,in] of a linear layer."""
        flat = x.detach().flatten(0, -2).double()
        new = (flat.sum(0), flat.mT @ flat, flat.abs().amax(0))
        known = self.sums
        self.sums = new if known is None else (known[0] + new[0], known[1] + new[1], torch.maximum(known[2], new[2]))
        self.count += len(flat)

    @property
    def mean(self) -> Tensor:
        assert self.sums is not None
        return self.sums[0] / self.count

    @property
    def second(self) -> Tensor:
        assert self.sums is not None
        return self.sums[1] / self.count

    @property
    def largest(self) -> Tensor:
        assert self.sums is not None
        return self.sums[2]


@dataclass(frozen=True)
class Plan:
    """What a compressor will do: a decision for every unit, and bytes before and after."""

    decisions: Mapping[str, Any]
    before: int
    after: int

    def rows(self) -> Iterator[dict[str, Any]]:
        """The decisions as rows of a table."""
        return ({"unit": name, "change": repr(change)} for name, change in self.decisions.items())


class Compressor(Protocol):
    """Makes a network smaller."""

    def plan(self, network: nn.Module, probe: Probe) -> Plan:
        """What it will do; the network is not changed."""
        ...

    def apply(self, network: nn.Module, plan: Plan, probe: Probe, rng: Rng) -> nn.Module:
        """A smaller network; the network is not changed."""
        ...
