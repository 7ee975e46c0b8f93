"""Shared by the claims about training of weights that are computed from other numbers: the inner layers of a small flow
of the ring are replaced, and the whole network is trained on the velocities of the flow at states of its sampling."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

import beeline as bl
from beeline.networks.adapters.delta import layers_of
from beeline.networks.adapters.recast import replaced
from beeline.networks.compressing.compressor import Probe
from beeline.networks.compressing.recover import Recovered
from benchmarks.claims.storing import change_of, states

STEPS = 300


class Computed(nn.Module):
    """Base of linear layers that compute their weight [out,in]."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.bias = nn.Parameter(layer.bias.detach().clone())

    def weight(self) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight(), self.bias)


class Taught:
    """A network whose inner layers are replaced, and its training."""

    def __init__(self, net: nn.Module, make: Callable[[Any], nn.Module], rng: bl.Rng, probe: Probe | None = None):
        self.old, self.net, self.rng = net, copy.deepcopy(net).requires_grad_(True), rng
        self.layers: list[Any] = [make(layer) for layer in layers_of(net).values()]
        self.probe = states(net, rng.fork("probe")) if probe is None else probe
        with torch.no_grad():
            sizes = [net(*call.inputs).square().mean() for call in self.probe.calls]
        self.size = float(sum(sizes)) / len(sizes)
        for name, layer in zip(layers_of(net), self.layers, strict=True):
            replaced(self.net, name, layer)

    def train(
        self,
        steps: int = STEPS,
        before: Callable[[int], Any] | None = None,  # called with the number of a step
        after: Callable[[int], Any] | None = None,
        cost: Callable[[], Tensor] | None = None,  # added to the error of velocities over their size
        rate: float = 1e-3,
    ) -> Taught:
        drawn = Recovered().drawn
        optimizer = torch.optim.Adam([p for p in self.net.parameters() if p.requires_grad], rate)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            if before is not None:
                before(step)
            call = drawn(self.probe, self.rng.fork("step", step))
            wanted = self.old(*call.inputs)
            optimizer.zero_grad()
            loss = (self.net(*call.inputs) - wanted).square().mean() / self.size
            (loss if cost is None else loss + cost()).backward()
            optimizer.step()
            falling.step()
            if after is not None:
                after(step)
        return self

    def error(self, fresh: Probe | None = None) -> float:
        """The relative error of velocities over states that it has not seen."""
        return change_of(self.net, self.old, states(self.old, self.rng.fork("fresh")) if fresh is None else fresh)
