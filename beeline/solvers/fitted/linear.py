"""Fitted solvers: coefficients and times optimised for one flow, number of steps and guidance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.host_times import host_times, map_times
from beeline.core.protocols.flows import Solver, SolverTraits
from beeline.core.ranges import dataclass
from beeline.core.types import Dynamics
from beeline.solvers.exponential import linear_combination
from beeline.solvers.integrate import integrate
from beeline.solvers.wrappers import SolverBase


@dataclass(frozen=True)
class Fitted(SolverBase):
    """A linear multistep method with fitted coefficients: each state combines the first one and all velocities so far.

    x_i+1 = keep_i x_0 + sum over j <= i of rows_ij v_j,  v_j = f(x_j, asked_j)
    Assumes the flow, the guidance and the times for which it was fitted, from source to data only.
    Source: Shaul et al. 2024, "Bespoke Non-Stationary Solvers" (arXiv 2403.01329); Wang et al. 2025, "Differentiable
    Solver Search" (arXiv 2505.21114); fitted times: Xia et al. 2024 (arXiv 2310.09469).

    >>> heun_like = Fitted((0.0, 1.0), ((1.0,),), (1.0,), (0.5,))
    >>> heun_like.step(lambda x, t: t[:, None], torch.zeros(1, 1), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[0.5000]])
    """

    times: tuple[float, ...]  # nodes, increasing from 0 to 1
    rows: tuple[tuple[float, ...], ...]  # weights of the velocities so far, of lengths 1, 2, ...
    keep: tuple[float, ...] = ()  # weight of the first state, one for each step; () is 1
    asked: tuple[float, ...] = ()  # times passed to the field, one for each step; () is the nodes
    order = 1  # a fixed number of steps has no order; constant fields are exact for consistent rows

    def __post_init__(self) -> None:
        for name, value in (("times", self.times), ("keep", self.keep), ("asked", self.asked)):
            object.__setattr__(self, name, tuple(float(v) for v in value))
        object.__setattr__(self, "rows", tuple(tuple(float(v) for v in row) for row in self.rows))
        n = len(self.rows)
        require(
            n >= 1 and len(self.times) == n + 1 and [len(r) for r in self.rows] == list(range(1, n + 1)),
            f"Fitted got {len(self.times)} times and rows of lengths {[len(r) for r in self.rows]}; they do not fit: "
            "pass N+1 times and rows of lengths 1 to N for N steps",
        )
        require(
            len(self.keep) in (0, n) and len(self.asked) in (0, n),
            f"Fitted got {len(self.keep)} weights of the first state and {len(self.asked)} times of the field for "
            f"{n} steps; they do not fit: pass one per step, or none",
        )

    @property
    def traits(self) -> SolverTraits:
        return SolverTraits(multistep=True)

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        start, seen = memory or (x, ())
        i = len(seen)
        self.check(i, t, s)
        at = map_times(lambda t: torch.full_like(t, self.asked[i]), t) if self.asked else t
        seen = (*seen, f(x, at))
        keep = self.keep[i] if self.keep else 1.0
        return linear_combination([(keep, start), *zip(self.rows[i], seen, strict=True)]), (start, seen)

    def check(self, i: int, t: Tensor, s: Tensor) -> None:
        """Refuse a step from ``t`` to ``s`` that is not the fitted step ``i``."""
        ends = [float(host_times(v).flatten()[0]) for v in (t, s)]
        require(
            i < len(self.rows) and all(abs(e - w) < 1e-5 for e, w in zip(ends, self.times[i : i + 2], strict=True)),
            f"Fitted got step {i} from t = {ends[0]:.6g} to {ends[1]:.6g}, but it was fitted for the times "
            f"{[round(v, 4) for v in self.times]}; use them (schedule=Explicit(solver.times)), or a solver that is not "
            "fitted, for example to invert",
        )


def linear_form(solver: Solver, times: Tensor) -> Fitted | None:
    """The coefficients of a linear solver on ``times`` [steps+1] from 0 to 1, as a Fitted with the same end points.

    The solver runs on coordinate vectors: every evaluation returns a new one, so that a state is the list of its
    weights.  None for a solver that asks for a time twice or for the time 1 (Heun, RK4), which Fitted cannot represent,
    and for a solver with no first step on its path.

    >>> from beeline.solvers.runge_kutta import EULER
    >>> linear_form(EULER, torch.tensor([0.0, 0.25, 1.0])).rows
    ((0.25,), (0.25, 0.75))
    """
    most = 8 * len(times)
    states: list[Tensor] = []
    asked: list[float] = []

    def unit(x: Tensor, t: Tensor) -> Tensor:
        states.append(x[0])
        asked.append(float(t[0]))
        return torch.nn.functional.one_hot(torch.tensor([len(states)]), most).double()

    start = torch.nn.functional.one_hot(torch.tensor([0]), most).double()
    try:
        end = integrate(unit, start, times.double(), solver)[0]
    except BeelineError:  # the formula of the solver has no first step on its path
        return None
    nodes = [*asked, 1.0]
    if nodes[0] != 0 or any(s <= t for t, s in zip(nodes, nodes[1:], strict=False)):
        return None
    later = [*states[1:], end]
    rows = tuple(tuple(state[1 : i + 2].tolist()) for i, state in enumerate(later))
    keep = tuple(float(state[0]) for state in later)
    return Fitted(tuple(nodes), rows, () if all(abs(k - 1) < 1e-12 for k in keep) else keep)
