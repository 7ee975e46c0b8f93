"""Explicit one-step methods and the step of a flow map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.host_times import time_between
from beeline.core.protocols.flows import SolverTraits
from beeline.core.ranges import Count, dataclass
from beeline.core.types import Dynamics, expand_time
from beeline.solvers.wrappers import SolverBase


@dataclass(frozen=True)
class RungeKutta(SolverBase):
    """An explicit Runge-Kutta method with a given Butcher tableau.

    k_i = f(x + h sum_j a_ij k_j, t + c_i h),  x_s = x + h sum_i b_i k_i,  c_i = sum_j a_ij,  h = s - t
    Assumes a smooth field.  ``a`` starts with the row of the second stage.
    Source: Butcher 2016, "Numerical Methods for Ordinary Differential Equations".

    >>> RungeKutta(2, ((0.5,),), (0.0, 1.0)) == MIDPOINT
    True
    """

    order: Count
    a: tuple[tuple[float, ...], ...]  # rows of increasing length 1, 2, ...
    b: tuple[float, ...]  # weights, with sum 1

    def __post_init__(self) -> None:
        require(
            abs(sum(self.b) - 1) < 1e-12 and [len(r) for r in self.a] == list(range(1, len(self.b))),
            f"RungeKutta got a={self.a}, b={self.b}; this is no explicit tableau: b must sum to 1, and a must have a "
            "row for every stage after the first, of lengths 1, 2, ...",
        )

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        wide = expand_time(s - t, x)
        slopes = [f(x, t)]
        for row in self.a:
            slopes.append(f(advance(x, wide, row, slopes), time_between(t, s, sum(row))))
        return advance(x, wide, self.b, slopes), None


EULER = RungeKutta(1, (), (1.0,))
MIDPOINT = RungeKutta(2, ((0.5,),), (0.0, 1.0))
HEUN = RungeKutta(2, ((1.0,),), (0.5, 0.5))
RALSTON = RungeKutta(2, ((2 / 3,),), (0.25, 0.75))
RK3 = RungeKutta(3, ((0.5,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6))
RK4 = RungeKutta(4, ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))


@dataclass(frozen=True)
class Taylor(SolverBase):
    """Second-order Taylor method, with the derivative of the velocity by a finite difference along the trajectory.

    v' ~ (f(x + d v, t + d) - v) / d with d = reach h,  x_s = x + h v + h^2/2 v'
    Assumes a smooth field.  A reach of 1/2 is the midpoint rule exactly (RF-Solver as released), 1 is Heun.
    Source: Wang et al. 2024, "Taming Rectified Flow for Inversion and Editing" (arXiv 2411.04746).

    >>> x, _ = Taylor().step(lambda x, t: 2 * t[:, None], torch.zeros(1, 1), torch.zeros(1), torch.ones(1), None)
    >>> float(x)
    1.0
    """

    reach: float = 0.5  # distance of the second evaluation as a fraction of the step, above 0 to 1
    order = 2

    def __post_init__(self) -> None:
        require(
            0 < self.reach <= 1,
            f"Taylor got reach={self.reach}; the second evaluation must lie inside the step: set 0 < reach <= 1",
        )

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        wide = expand_time(s - t, x)
        v = f(x, t)
        ahead = f(torch.addcmul(x, wide, v, value=self.reach), time_between(t, s, self.reach))
        share = 0.5 / self.reach
        return torch.addcmul(x, wide, (1 - share) * v + share * ahead), None


@dataclass(frozen=True)
class MidpointReuse(SolverBase):
    """The midpoint rule with the previous midpoint velocity as first stage: order two for one evaluation per step.

    x_m = x + h/2 c,  c' = f(x_m, t + h/2),  x_s = x + h c';  c is c' of the previous step, f(x, t) in the first
    Assumes that neighbouring steps have similar lengths and that the velocity changes little in one step.
    Source: Deng et al. 2024, "FireFlow" (arXiv 2412.07517).

    >>> x, memory = MidpointReuse().step(lambda x, t: x, torch.ones(1, 1), torch.zeros(1), torch.ones(1), None)
    >>> float(x), float(memory)
    (2.5, 1.5)
    """

    order = 2

    @property
    def traits(self) -> SolverTraits:
        return SolverTraits(multistep=True)

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        wide = expand_time(s - t, x)
        known = f(x, t) if memory is None else memory
        middle = f(torch.addcmul(x, wide, known, value=0.5), time_between(t, s, 0.5))
        return torch.addcmul(x, wide, middle), middle


@dataclass(frozen=True)
class FlowMapStep(SolverBase):
    """The step of a flow map.

    x_s = x + (s - t) u(x, t, s)
    Assumes a flow map; one step is exact if the map is.
    Source: Boffi, Albergo and Vanden-Eijnden 2024, "Flow Map Matching" (arXiv 2406.07507).

    >>> from beeline.core.declared import as_map
    >>> one = as_map(lambda x, t, s=None: torch.ones_like(x))
    >>> FlowMapStep().step(one, torch.zeros(1, 1), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[1.]])
    """

    order: Count = 1

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        require(
            is_map(f),
            "FlowMapStep() got a velocity field; it needs a flow map u(x, t, s), which takes the end of the step: use "
            "an ODE solver such as EULER, or distil the field into a flow map",
        )
        return x + expand_time(s - t, x) * f(x, t, s=s), None


def advance(x: Tensor, h: Tensor, weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """x + h sum_i weights_i slopes_i, with ``h`` broadcastable to ``x``."""
    used = [(w, k) for w, k in zip(weights, slopes, strict=True) if w != 0]
    if not used:
        return x
    (w, k), *rest = used
    total = k if w == 1 else w * k
    for w, k in rest:
        total = torch.add(total, k, alpha=w)
    return torch.addcmul(x, h, total)
