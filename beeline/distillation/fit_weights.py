"""Fits of weights that depend on the trajectory: a small network beside a fitted solver."""

from __future__ import annotations

from dataclasses import field
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Schedule, Solver
from beeline.core.protocols.training import Fit
from beeline.core.ranges import Count, Positive, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Dynamics
from beeline.distillation.fit_solver import Bespoke, FitBase, Form, Group, Problem, descend
from beeline.solvers.fitted.linear import Fitted, linear_form
from beeline.solvers.fitted.state_weights import StateWeights, changes, combine, count_invariants, invariants
from beeline.solvers.integrate import integrate
from beeline.solvers.wrappers import SolverBase
from beeline.times.schedules import Explicit

START = 0.3  # standard deviation of the weights of a hidden unit, times the root of the number of its inputs


@dataclass(frozen=True)
class StateDependent(FitBase):
    """Times, weights, and changes of the weights by invariants of the trajectory so far, by gradient descent.

    minimise log E|x_N - x_1|^2 over the parameters of StateWeights, from the solver of ``first``
    An eighth of the source points is held out; the result is the best on it of ten states of the fit and the solver of
    ``first``.  It needs some thousand source points: the invariants distinguish single trajectories.
    Assumes a field that is differentiable in state and time.

    >>> StateDependent(first=Bespoke(iterations=100)).hidden
    16
    """

    first: Fit = field(default_factory=Bespoke)
    hidden: Count = 16  # units of the network of every step
    iterations: Count = 600  # gradient steps after those of ``first``
    batch: Count = 1024  # source points per gradient step
    lr: Positive = 0.003  # of Adam for the networks; times and weights have a third of it

    @property
    def logged(self) -> int:
        return self.first.logged + self.iterations

    def __call__(self, problem: Problem, steps: int, rng: Rng) -> tuple[Schedule, Solver]:
        order = rng.fork("split of weights").permutation(len(problem.x0)).to(problem.x0.device)
        held, learned = (problem.rows(part) for part in (order[: len(order) // 8], order[len(order) // 8 :]))
        schedule, start = self.first(learned, steps, rng)
        known = linear_form(start, schedule(steps))
        require(
            known is not None,
            f"StateDependent got first={self.first}, whose solver {start} does not have one evaluation per step at its "
            "start; give a fit such as Bespoke()",
        )
        assert known is not None
        form = StateForm(known, self.hidden, learned, rng.fork("networks"))
        groups = [Group(form.networks(), self.lr), Group(form.base.parts(), self.lr / 3)]
        seen: list[Fitted | StateWeights] = [known]
        before = self.first.logged
        for i in descend(learned, form.solve, groups, self.iterations, self.batch, rng.fork("weights"), before):
            if (i + 1) % max(1, self.iterations // 10) == 0:
                seen.append(form.solver())
        return min(((Explicit(times_of(s)), s) for s in seen), key=lambda s: held.error(s[0], s[1], steps))


def times_of(solver: Fitted | StateWeights) -> tuple[float, ...]:
    """The nodes of a fitted solver."""
    return solver.base.times if isinstance(solver, StateWeights) else solver.times


class StateForm:
    """The parameters of a solver with weights that depend on the state (float64, on the CPU)."""

    def __init__(self, known: Fitted, hidden: int, problem: Problem, rng: Rng):
        self.base = Form(torch.tensor(known.times, dtype=torch.float64), 1, keep=True)
        self.base.set(known)
        self.inner, self.outer, self.center, self.scale = [], [], [], []
        states: list[Tensor] = []
        f, few = problem.dynamics(), problem.first(4096)
        with torch.no_grad():
            integrate(_recorded(f, states), few.x0, torch.tensor(known.times).to(few.x0), known)
        for i in range(len(known.rows)):
            std, mean = torch.std_mean(invariants(few.x0, states[: i + 1]).double().cpu(), 0)
            self.center.append(mean)
            self.scale.append(std.clamp(min=1e-3))
            count = count_invariants(i + 1)
            drawn = rng.fork(i).normal(torch.empty(hidden, count + 1, dtype=torch.float64))
            self.inner.append((START * drawn / count**0.5).requires_grad_())
            self.outer.append(torch.zeros(i + 2, hidden, dtype=torch.float64).requires_grad_())

    def networks(self) -> list[Tensor]:
        return [*self.inner, *self.outer]

    def solve(self, f: Dynamics, x0: Tensor) -> Tensor:
        """The end points, with a graph to all parameters."""
        counted = torch.linspace(0, 1, len(self.inner) + 1)  # numbers of the steps; the form has the times
        return integrate(f, x0, counted, _Learning(self))

    def solver(self) -> StateWeights:
        """The current parameters as a solver."""
        parts = (
            [part.detach().tolist() for part in each] for each in (self.center, self.scale, self.inner, self.outer)
        )
        return StateWeights(self.base.solver(), *(tuple(part) for part in parts))  # type: ignore[arg-type]


def _recorded(f: Dynamics, states: list[Tensor]) -> Dynamics:
    """The dynamics, which appends its values to ``states``."""

    def call(x: Tensor, t: Tensor) -> Tensor:
        states.append(f(x, t))
        return states[-1]

    return call


class _Learning(SolverBase):
    """The solver of a StateForm during the fit."""

    order = 1

    def __init__(self, form: StateForm):
        self.form = form

    def init_memory(self, times: Tensor) -> Any:
        nodes = self.form.base.times()
        return [], (), self.form.base.rows(nodes), list(nodes)

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        start, seen, rows, nodes = memory
        i, start, form = len(seen), start or [x], self.form
        seen = (*seen, f(x, nodes[i].to(x.device, x.dtype).expand(len(x)).clone()))
        found = invariants(start[0], seen)
        network = [part[i].to(found) for part in (form.center, form.scale, form.inner, form.outer)]
        weights = torch.cat([1 + form.base.keep[i : i + 1], rows[i, : i + 1]]).to(found)
        return combine(start[0], seen, weights + changes(found, *network)), (start, seen, rows, nodes)
