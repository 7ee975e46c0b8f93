"""Weight averages, stored separately from the network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.protocols.training import Profile
from beeline.core.ranges import dataclass
from beeline.training.distributed.parallel import full_tensor, local


@dataclass(frozen=True)
class EMA:
    """Exponential moving average of the weights, in float32 or better, with a warm-up of the half-life.

    average <- d average + (1 - d) weights,  d = 2^(-1/h),  h = min(half_life, warmup step)
    During the warm-up the half-life is a fraction of the steps so far, so the random initial weights are forgotten.
    Source: Karras et al. 2022, EDM (arXiv 2206.00364), half-life and ramp-up.

    >>> round(EMA(half_life=1.0, warmup=0).decay(10), 3)
    0.5
    """

    half_life: float = 1000.0  # steps after which a weight in the average has halved, above 0
    warmup: float = 0.05  # the half-life is at most this fraction of the steps so far; 0 disables the warm-up

    def __post_init__(self) -> None:
        require(
            self.half_life > 0 and self.warmup >= 0,
            f"EMA got half_life={self.half_life}, warmup={self.warmup}; the half-life is a number of steps above 0, "
            "the warm-up a fraction of 0 or more: give for example EMA(1000, 0.05)",
        )

    def decay(self, step: int) -> float:
        h = min(self.half_life, self.warmup * step) if self.warmup else self.half_life
        return float(0.5 ** (1 / h))


@dataclass(frozen=True)
class PowerEMA:
    """Weight average with a power-function profile, whose length is proportional to the steps so far.

    average_n = (g+1) / n^(g+1) sum_m m^g w_m;  d = (1 - 1/n)^(g+1);  length^2 = (g+1) / ((g+2)^2 (g+3))
    Snapshots of two lengths (0.05 and 0.1) allow post-hoc averages of any length.
    Source: Karras et al. 2024, EDM2 (arXiv 2312.02696), section 3.

    >>> round(PowerEMA(0.1).exponent, 2)
    6.94
    """

    length: float = 0.05  # standard deviation of the profile relative to the steps so far, above 0, below 0.2887

    def __post_init__(self) -> None:
        require(
            0 < self.length < 12**-0.5,
            f"PowerEMA got length={self.length}; the length has to be between 0 and 0.2887 (a uniform average): "
            "give 0.05 to 0.1",
        )

    @property
    def exponent(self) -> float:
        """Exponent g of the power function, the real root of a cubic."""
        k = self.length**-2
        roots = np.roots([1.0, 7.0, 16.0 - k, 12.0 - k])
        return float(roots.real.max())

    def decay(self, step: int) -> float:
        return float((1 - 1 / step) ** (self.exponent + 1))


@dataclass(frozen=True)
class UniformAverage:
    """Uniform average of the weights after step ``start`` (stochastic weight averaging).

    average_n = mean of w_m over start < m <= n, and w_n for n <= start;  d = 1 - 1 / (n - start)
    Assumes that the weights fluctuate around a stationary point after ``start``, at a constant or cyclic learning rate.
    Source: Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima" (arXiv 1803.05407); Hagele et al. 2024
    (arXiv 2405.18392), as a stand-in for cooldowns.

    >>> UniformAverage(start=10).decay(14)
    0.75
    """

    start: int = 0  # number of initial steps that are not averaged

    def __post_init__(self) -> None:
        require(
            self.start >= 0,
            f"UniformAverage got start={self.start}; it is a number of steps: give a whole number of 0 or more",
        )

    def decay(self, step: int) -> float:
        return 1 - 1 / max(1, step - self.start)


class Average:
    """Running average of the trainable parameters of one network, in float32 or better.

    Parameters that do not require gradients are not copied; ``averaged`` takes them from the network.
    """

    def __init__(self, network: nn.Module, profile: Profile):
        self.profile = profile
        trainable = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in trainable]
        self._sources = [p.detach() for _, p in trainable]
        self.tensors = [p.to(torch.promote_types(p.dtype, torch.float32), copy=True) for p in self._sources]
        self._plain = all(
            a.dtype == p.dtype and local(p) is p for a, p in zip(self.tensors, self._sources, strict=True)
        )

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the weights after step ``step`` (1, 2, ...)."""
        averages, sources = self.tensors, self._sources
        if not averages:
            return
        if not self._plain:  # sharded, or of a narrower dtype than the average
            averages = [local(a) for a in averages]
            sources = [local(p).to(a.dtype) for a, p in zip(averages, sources, strict=True)]
        torch._foreach_lerp_(averages, sources, 1 - self.profile.decay(step))

    def state(self) -> dict[str, Tensor]:
        """The averaged parameters by name."""
        return dict(zip(self.names, self.tensors, strict=True))


def averaged_view(network: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """``network`` with the averaged parameters of ``state``, which are not copied unless they have another dtype.

    Parameters that are not in ``state`` are those of ``network`` itself; buffers are copied.  The view is valid until
    the next update of the average.
    """
    memo: dict[int, Any] = {
        id(p): nn.Parameter(state[name].to(p.dtype), p.requires_grad) if name in state else p
        for name, p in network.named_parameters()
    }
    return copy.deepcopy(network, memo)


def replaced(network: nn.Module, make: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of a network with ``make(tensor)`` in place of every parameter and buffer."""
    memo: dict[int, Any] = {id(b): make(b.detach()) for b in network.buffers()}
    memo |= {id(p): nn.Parameter(make(p.detach()), p.requires_grad) for p in network.parameters()}
    return copy.deepcopy(network, memo)


def averaged(
    network: nn.Module,
    state: Mapping[str, Tensor],
    device: torch.device | None = None,
    live: nn.Module | None = None,
) -> nn.Module:
    """A copy of ``network``, which may be on the meta device, with the averaged parameters of ``state``.

    Buffers, and parameters that are not in ``state``, are copied from ``live``, the network in training (by default
    ``network``), because buffers change during training.
    """
    copied = replaced(network, lambda t: torch.empty_like(t, device="cpu" if t.is_meta else None))
    source = network if live is None else live
    weights, buffers = dict(source.named_parameters()), dict(source.named_buffers())
    with torch.no_grad():
        for name, p in copied.named_parameters():
            p.copy_(full_tensor(state[name] if name in state else weights[name]))
        for name, b in copied.named_buffers():
            b.copy_(full_tensor(buffers[name]))
    return copied if device is None else copied.to(device)
