"""Averages of the weights over training, kept beside the network and never swapped into it."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.protocols.training import Profile
from beeline.core.ranges import dataclass
from beeline.training.distributed.parallel import local, whole


@dataclass(frozen=True)
class EMA:
    """Exponential moving average of the weights, in float32 or better, with a warm-up.

    average <- d average + (1 - d) weights,  d = 2^(-1/h),  h = min(half_life, warmup step)
    Assumes nothing; during the warm-up the half-life is a share of the steps so far, so that the random first
    weights are forgotten.
    Source: Karras et al. 2022, EDM (arXiv 2206.00364), half-life and ramp-up.

    >>> round(EMA(half_life=1.0, warmup=0).decay(10), 3)
    0.5
    """

    half_life: float = 1000.0  # steps after which half of the average is forgotten, above 0
    warmup: float = 0.05  # the half-life is at most this share of the steps so far; 0 is no warm-up

    def __post_init__(self) -> None:
        require(
            self.half_life > 0 and self.warmup >= 0,
            f"EMA got half_life={self.half_life}, warmup={self.warmup}; a half-life is a number of steps above 0 and "
            "a warm-up a share from 0: EMA(1000, 0.05) is usual",
        )

    def decay(self, step: int) -> float:
        h = min(self.half_life, self.warmup * step) if self.warmup else self.half_life
        return float(0.5 ** (1 / h))


@dataclass(frozen=True)
class PowerEMA:
    """Average whose memory grows with the run: a power function of the time at which weights were seen.

    average_n = (g+1) / n^(g+1) sum_m m^g w_m;  d = (1 - 1/n)^(g+1);  length^2 = (g+1) / ((g+2)^2 (g+3))
    Assumes nothing; snapshots of two lengths (0.05 and 0.1) give an average of any other afterwards.
    Source: Karras et al. 2024, EDM2 (arXiv 2312.02696), section 3.

    >>> round(PowerEMA(0.1).exponent, 2)
    6.94
    """

    length: float = 0.05  # standard deviation of the memory relative to the steps so far, above 0, at most 0.28

    def __post_init__(self) -> None:
        require(
            0 < self.length < 12**-0.5,
            f"PowerEMA got length={self.length}; the length lies between 0 and 0.2887 (a uniform average): "
            "0.05 to 0.1 are usual",
        )

    @property
    def exponent(self) -> float:
        """g of the power function, the real root of a cubic."""
        k = self.length**-2
        roots = np.roots([1.0, 7.0, 16.0 - k, 12.0 - k])
        return float(roots.real.max())

    def decay(self, step: int) -> float:
        return float((1 - 1 / step) ** (self.exponent + 1))


@dataclass(frozen=True)
class UniformAverage:
    """UniformAverage average of the weights after a step: stochastic weight averaging.

    average_n = mean of w_m over start < m <= n, and w_n before;  d = 1 - 1 / (n - start)
    Assumes that the weights move about one place by then, at a constant or cyclic lr.
    Source: Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima" (arXiv 1803.05407); Hagele et al. 2024
    (arXiv 2405.18392), as a stand-in for cooldowns.

    >>> UniformAverage(start=10).decay(14)
    0.75
    """

    start: int = 0  # steps that are left out, from 0

    def __post_init__(self) -> None:
        require(
            self.start >= 0,
            f"UniformAverage got start={self.start}; it is a number of steps: give a whole number from 0",
        )

    def decay(self, step: int) -> float:
        return 1 - 1 / max(1, step - self.start)


class Average:
    """The running average of one network: named tensors of its own, in float32 or better, of what learns.

    Parameters that do not require gradients are not copied; where the average is used they are the network's own.
    """

    def __init__(self, network: nn.Module, profile: Profile):
        self.profile = profile
        learning = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in learning]
        self._watched = [p.detach() for _, p in learning]
        self.tensors = [p.to(torch.promote_types(p.dtype, torch.float32), copy=True) for p in self._watched]
        self._plain = all(
            a.dtype == p.dtype and local(p) is p for a, p in zip(self.tensors, self._watched, strict=True)
        )

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step ``step`` (1, 2, ...)."""
        mine, seen = self.tensors, self._watched
        if not mine:
            return
        if not self._plain:  # divided among processes, or narrower than the average
            mine = [local(a) for a in mine]
            seen = [local(p).to(a.dtype) for a, p in zip(mine, seen, strict=True)]
        torch._foreach_lerp_(mine, seen, 1 - self.profile.decay(step))

    def state(self) -> dict[str, Tensor]:
        """The averaged parameters by name."""
        return dict(zip(self.names, self.tensors, strict=True))


def averaged(
    network: nn.Module,
    state: Mapping[str, Tensor],
    device: torch.device | None = None,
    live: nn.Module | None = None,
) -> nn.Module:
    """A copy of ``network`` that holds the averaged parameters.

    Buffers, and parameters that are not in ``state``, come from ``live``, the network that learns (``network`` itself
    unless it is given): buffers are part of the state of a network and change as it learns.
    """
    made = copy.deepcopy(network)
    made.zero_grad(set_to_none=True)
    source = network if live is None else live
    weights, buffers = dict(source.named_parameters()), dict(source.named_buffers())
    with torch.no_grad():
        for name, p in made.named_parameters():
            p.copy_(whole(state[name] if name in state else weights[name]))
        for name, b in made.named_buffers():
            b.copy_(whole(buffers[name]))
    return made if device is None else made.to(device)
