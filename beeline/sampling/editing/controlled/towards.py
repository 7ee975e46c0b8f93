"""Controllers that lead a run to a given end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.protocols.steering import Controller, Run
from beeline.core.ranges import NonNegative, Positive, Share, check_window, dataclass
from beeline.core.types import Dynamics, expand_time
from beeline.fields.flow import Flow
from beeline.paths.affine import AffinePath
from beeline.sampling.steering.controller import ControllerBase, OfRun, affine_path

NEAR = 1e-6  # distance in time from an end at which the state no longer determines the velocity towards it


@dataclass(frozen=True)
class ToTarget(ControllerBase):
    """Base of controllers with a given end."""

    target: Any  # of the shape of a sample, or of a batch of samples: a tensor or nested lists
    rows: tuple[int, int] | None = field(default=None, kw_only=True)  # rows of the batch; None for all

    def end(self, x: Tensor) -> Tensor:
        """The target [B,*S] for states ``x`` [B,*S]; for several times the rows of the target these are repeated."""
        target = torch.as_tensor(self.target, dtype=x.dtype, device=x.device)
        if target.shape == x.shape[1:]:
            return target.expand(x.shape)
        if self.rows is not None and target.ndim == x.ndim:
            target = target[slice(*self.rows)]
        require(
            target.shape[1:] == x.shape[1:] and len(target) > 0 and len(x) % len(target) == 0,
            f"{type(self).__name__} got a target of shape {tuple(target.shape)} for states of shape {tuple(x.shape)}; "
            "the run is led to it number by number: give one target for every sample, or one of the shape of a sample",
        )
        return target.repeat(len(x) // len(target), *(1 for _ in x.shape[1:]))

    def for_rows(self, start: int, end: int) -> Any:
        first = 0 if self.rows is None else self.rows[0]
        return replace(self, rows=(first + start, first + end))


@dataclass(frozen=True)
class Towards(ToTarget):
    """Leads a run to a given end: a datum in runs towards the data, noise in runs towards the source.

    v' = v + eta (u - v),  u the velocity of the path that ends in the target, (x1 - x) / (1 - t) on the straight path;
    eta = strength (1 - t)^decay at times of the window, ``low <= t < high``, and 0 at others
    u is the optimal control of a linear quadratic regulator with an infinite weight of the end.  With strength 1 in the
    whole run the result is the target.  The times are those of the grid of the run.
    Assumes an affine path.
    Source: Rout et al. 2024, "Semantic Image Inversion and Editing using Rectified Stochastic Differential Equations"
    (arXiv 2410.10792).

    >>> f = Towards(torch.ones(1, 1), 0.5).steer(lambda x, t: 0 * x, Flow(lambda x, t: 0 * x))
    >>> f(torch.zeros(1, 1), torch.full((1,), 0.5))
    tensor([[1.]])
    """

    strength: Share = 1.0
    window: tuple[float, float] = (0.0, 1.0)
    decay: NonNegative = 0.0
    to_source: bool = False  # whether the run ends at the source; a run says it itself

    def __post_init__(self) -> None:
        check_window("Towards", self.window)

    def for_run(self, run: Run) -> Controller:
        times = host_times(run.times)
        return replace(self, to_source=bool((times[-1] < times[0]).all()))

    def steer(self, f: Dynamics, flow: Flow) -> Dynamics:
        path = affine_path(flow, "Towards")
        u = _to_end(path, self.end, self.to_source)

        def steered(x: Tensor, t: Tensor) -> Tensor:
            v, straight = f(x, t), u(x, t)
            known = host_times(t)
            now = (known >= self.window[0]) & ((known < self.window[1]) | (self.window[1] == 1))
            if self.strength == 0 or not bool(now.any()):
                return v
            eta = self.strength * (1 - t) ** self.decay * now.to(t)
            return v + expand_time(eta, v) * (straight.to(v) - v)

        return steered


@dataclass(frozen=True)
class Transported(ToTarget):
    """Leads early steps to a datum by the displacement of optimal transport to it, with a weight that falls smoothly.

    v' = v + lam (d - v),  d = (x1 - x) / (1 - t) shortened to ``longest``,
    lam = strength (1 + cos(pi t / until)) / 2 min(1, t / ramp) before ``until``, 0 after
    For the quadratic cost and a known end the displacement is the straight line; no coupling of batches is computed.
    ``balanced`` also scales the change by |v| / |d|.  Norms are those of the last dimension, or of the channels of
    pictures.  Towards with the same strengths and weights lam does the same where nothing is shortened or balanced.
    Assumes the straight path in its times; runs towards the source are not changed.
    Source: "Transport-Guided Rectified Flow Inversion" (arXiv 2508.02363).

    >>> f = Transported(torch.ones(1, 1), 1.0, until=0.5, ramp=0.0).steer(lambda x, t: 0 * x, Flow(lambda x, t: 0 * x))
    >>> f(torch.zeros(1, 1), torch.zeros(1))
    tensor([[1.]])
    """

    strength: Share = 0.1
    until: Share = 0.3
    longest: Positive = 10.0
    ramp: Share = 0.05  # time in which the weight rises; 0 has the whole weight at once
    balanced: bool = False

    def for_run(self, run: Run) -> Controller:
        times = host_times(run.times)
        return self if bool((times[-1] > times[0]).all()) else OfRun()

    def weight(self, t: Tensor) -> Tensor:
        """lam at times ``t``."""
        falling = (1 + torch.cos(math.pi * (t / max(self.until, 1e-12)).clamp(max=1))) / 2
        rising = (t / self.ramp).clamp(max=1) if self.ramp > 0 else 1.0
        return self.strength * falling * rising * (t < self.until)

    def steer(self, f: Dynamics, flow: Flow) -> Dynamics:
        affine_path(flow, "Transported")

        def steered(x: Tensor, t: Tensor) -> Tensor:
            v = f(x, t)
            if not bool((self.weight(host_times(t)) > 0).any()):
                return v
            at = 2 if x.ndim == 2 else 1  # the dimension of a position: channels; of points the coordinates
            d = (self.end(v) - x.to(v)) / (1 - expand_time(t, v)).clamp(min=0.01)
            dim = min(at, x.ndim - 1)
            length = d.norm(dim=dim, keepdim=True)
            d = d * (self.longest / length.clamp(min=self.longest))
            change = expand_time(self.weight(t), v) * (d - v)
            if self.balanced:
                change = change * (v.norm(dim=dim, keepdim=True) / (d.norm(dim=dim, keepdim=True) + 1e-8))
            return v + change

        return steered


def _to_end(
    path: AffinePath, target: Callable[[Tensor], Tensor], to_source: bool
) -> Callable[[Tensor, Tensor], Tensor]:
    """(x, t) -> velocity of the path through x to the target.

    At the end the state does not determine it; there it is that of the last evaluation before, as it is constant on the
    straight path.  A run that starts at its end has none, and does not move.
    """
    last: list[Tensor] = []

    def u(x: Tensor, t: Tensor) -> Tensor:
        known, end = host_times(t), target(x)
        at_end = known <= NEAR if to_source else known >= 1 - NEAR
        inner = t.clamp(min=NEAR) if to_source else t.clamp(max=1 - NEAR)
        found = path.velocity(x, inner, x0=end) if to_source else path.velocity(x, inner, x1=end)
        if bool(at_end.any()):
            before = last[0] if last else torch.zeros_like(x)
            found = torch.where(expand_time(at_end.to(x.device), x), before, found)
        last[:] = [found]
        return found

    return u
