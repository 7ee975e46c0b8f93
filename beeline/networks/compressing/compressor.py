"""Compressors: a plan, which changes nothing, and the smaller network that follows from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, map_cond


class Call(NamedTuple):
    """The inputs of one evaluation of a network while it samples."""

    x: Tensor
    t: Tensor
    cond: Cond
    s: Tensor | None = None  # the end of a jump, for flow maps

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The arguments of the network."""
        return (self.x, self.t, self.cond) if self.s is None else (self.x, self.t, self.cond, self.s)

    def rows(self, index: Tensor) -> Call:
        """Some rows of the inputs."""
        n = len(self.x)

        def some(leaf: Tensor) -> Tensor:
            return leaf[index] if leaf.ndim and len(leaf) == n else leaf

        return Call(self.x[index], some(self.t), map_cond(some, self.cond), None if self.s is None else some(self.s))


@dataclass(frozen=True, eq=False)
class Probe:
    """Inputs of a network, recorded while it sampled, for compressors that look at activations."""

    calls: Sequence[Call]

    @torch.no_grad()
    def moments(self, network: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, Moments]:
        """Moments of the inputs of linear layers of a network, which is evaluated once for every call.

        Layers of other kinds, and those that are not called, have none.
        """
        found = {name: Moments() for name, layer in layers.items() if isinstance(layer, nn.Linear)}
        times: list[Tensor] = []
        hooks = [
            layers[name].register_forward_hook(lambda _, given, __, seen=seen: seen.add(given[0], times[-1]))
            for name, seen in found.items()
        ]
        try:
            for call in self.calls:
                times.append(call.t)
                network(*call.inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return {name: seen for name, seen in found.items() if seen.count}


FINE = 64  # intervals of the time, in each of which the largest inputs are kept
KEPT = 2**13  # numbers of the inputs of a layer that are kept of an evaluation


def fine_bins(t: Tensor) -> Tensor:
    """The intervals in which times lie."""
    return (t.double() * FINE).long().clamp(0, FINE - 1)


class Moments:
    """Moments of the inputs [in] of a layer, in float64: count, E[x], E[x x^T], E|x| and the largest |x|.

    ``by_time`` [FINE,in] are the largest |x| in intervals of the time, 0 where none was seen.  ``some`` are inputs
    [n,in] that were kept, with the intervals of their times [n], -1 where these are unknown.
    """

    def __init__(self) -> None:
        self.count = 0
        self.sums: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self.timed: Tensor | None = None
        self.kept: list[tuple[Tensor, Tensor]] = []

    def add(self, x: Tensor, t: Tensor | None = None) -> None:
        """Add inputs [...,in] of a linear layer, at times [B] of a row or of several rows beside each other."""
        if t is not None and len(x) % t.numel() == 0:
            rows = x.detach().double().abs().reshape(t.numel(), -1, x.shape[-1]).amax(1)
            index = fine_bins(t.detach().flatten())[:, None].expand_as(rows)
            before = rows.new_zeros(FINE, x.shape[-1]) if self.timed is None else self.timed
            self.timed = before.scatter_reduce(0, index, rows, "amax")
        flat = x.detach().reshape(-1, x.shape[-1]).double()
        n, spread = -(-KEPT // x.shape[-1]), torch.arange(len(flat))
        if n < len(flat):  # multiples of the golden ratio are even, and no multiples of the tokens of a row
            spread = (torch.arange(n, dtype=torch.float64) * 0.6180339887 % 1 * len(flat)).long()
        when = torch.full_like(spread, -1)
        if t is not None and len(x) % t.numel() == 0:
            when = fine_bins(t.detach().flatten().cpu())[spread * t.numel() // len(flat)]
        self.kept.append((flat[spread.to(flat.device)].float(), when.to(flat.device)))
        new = (flat.sum(0), flat.mT @ flat, flat.abs().sum(0), flat.abs().amax(0))
        known = self.sums
        if known is not None:
            new = (*(a + b for a, b in zip(known[:3], new[:3], strict=True)), torch.maximum(known[3], new[3]))  # type: ignore[assignment]
        self.sums = new
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
    def size(self) -> Tensor:
        assert self.sums is not None
        return self.sums[2] / self.count

    @property
    def largest(self) -> Tensor:
        assert self.sums is not None
        return self.sums[3]

    @property
    def by_time(self) -> Tensor:
        return self.largest.new_zeros(FINE, len(self.largest)) if self.timed is None else self.timed

    @property
    def some(self) -> tuple[Tensor, Tensor]:
        rows, times = zip(*self.kept, strict=True)
        return torch.cat(rows), torch.cat(times)

    def divided(self, s: Tensor) -> Moments:
        """Those of the inputs divided by numbers [in]."""
        assert self.sums is not None
        made, s = Moments(), s.to(self.sums[0])
        made.count, made.timed = self.count, None if self.timed is None else self.timed / s
        made.kept = [(rows / s.to(rows), times) for rows, times in self.kept]
        made.sums = (self.sums[0] / s, self.sums[1] / (s[:, None] * s), self.sums[2] / s, self.sums[3] / s)
        return made

    def error(self, change: Tensor) -> float:
        """E |change x|^2 for a change [out,in] of the weight."""
        d = change.double()
        return float(((d @ self.second.to(d.device)) * d).sum())


@dataclass(frozen=True)
class Plan:
    """What a compressor will do: a decision for every unit, and bytes before and after."""

    decisions: Mapping[str, Any]
    before: int
    after: int
    seconds: float = 0.0  # that are expected
    inner: Plan | None = None  # of the compressor that this one calls

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
