"""Conversion between a velocity field on the straight path and a network in the convention of TrigFlow."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import Wrapping, is_map
from beeline.core.errors import require
from beeline.core.types import Cond, expand_time
from beeline.fields.flow import bind


class FromTrigFlow(Wrapping):
    """A network that was trained on the TrigFlow path, as a velocity field on the straight path.

    v(x, t) = (c' x - F(x / c, tau)) / c,  tan tau = (1 - t) / (spread t),  c = sqrt(t^2 + (1 - t)^2 / spread^2),
    where spread F is the velocity of cos(tau) x1 + sin(tau) spread x0 along the angle tau
    Assumes data whose standard deviation is ``spread``, which the path uses for its noise.
    Source: Lu and Song 2024, "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models" (arXiv
    2410.11081), TrigFlow.

    >>> FromTrigFlow(lambda x, tau: -x)(torch.ones(1, 1), torch.zeros(1))
    tensor([[0.]])
    """

    inside = "network"

    def __init__(self, network: Any, spread: float = 1.0):
        super().__init__()
        require(
            not is_map(network),
            f"FromTrigFlow got the flow map {type(network).__name__}; the conversion is that of a velocity: give a "
            "network with one time",
        )
        check_spread(spread)
        self.network, self.spread = network, spread

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"network": self.network, "spread": self.spread}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        tau, size, slope = trigflow_times(t, self.spread)
        c, dc = expand_time(size, x), expand_time(slope, x)
        return (dc * x - bind(self.network, cond)(x / c, tau)) / c


class ToTrigFlow(Wrapping):
    """A velocity field on the straight path, as a network in the convention of TrigFlow.

    F(y, tau) = c' x - c v(x, t),  x = c y,  t = cos(tau) / (cos(tau) + spread sin(tau))
    The inverse of FromTrigFlow, with its settings.
    Source: Lu and Song 2024 (arXiv 2410.11081), TrigFlow.

    >>> ToTrigFlow(lambda x, t: 0 * x)(torch.ones(1, 1), torch.full((1,), math.pi / 2))
    tensor([[-1.]])
    """

    inside = "network"

    def __init__(self, network: Any, spread: float = 1.0):
        super().__init__()
        require(
            not is_map(network),
            f"ToTrigFlow got the flow map {type(network).__name__}; the conversion is that of a velocity: give a "
            "network with one time",
        )
        check_spread(spread)
        self.network, self.spread = network, spread

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"network": self.network, "spread": self.spread}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """F [B,*S] at the states ``x`` [B,*S] of the TrigFlow path and the angles ``t`` [B] in [0, pi/2]."""
        time = t.cos() / (t.cos() + self.spread * t.sin())
        _, size, slope = trigflow_times(time, self.spread)
        c, dc = expand_time(size, x), expand_time(slope, x)
        return dc * c * x - c * bind(self.network, cond)(c * x, time)


def trigflow_times(t: Tensor, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """The angle tau of a time on the straight path, the ratio c of the states there, and dc/dt."""
    tau = torch.atan2((1 - t) / spread, t)
    size = torch.hypot(t, (1 - t) / spread)
    return tau, size, (t - (1 - t) / spread**2) / size


def check_spread(spread: float) -> None:
    """Refuse a standard deviation that is not above 0."""
    require(
        math.isfinite(spread) and spread > 0,
        f"the conversion to TrigFlow got spread={spread}; it is the standard deviation of the data: give a number "
        "above 0 (0.5 for images in [-1, 1] is usual)",
    )
