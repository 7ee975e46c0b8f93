"""The base of controllers for linear inverse problems, and what they compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.modes import wide
from beeline.core.protocols.steering import Controller, FullOperator, Run
from beeline.core.types import Dynamics, expand_time
from beeline.fields.flow import Flow
from beeline.paths.affine import AffinePath
from beeline.sampling.steering.controller import ControllerBase, OfRun, affine_path
from beeline.sampling.steering.energies.measured import Measured
from beeline.sampling.steering.inverse.residuals import pulled

Problem = Callable[[Tensor], tuple[FullOperator, Tensor]]
"""The operator and the measured values for data like a state, prepared once in a run."""


class Weights(NamedTuple):
    """Coefficients at a time, each with the shape of the time."""

    change: Tensor  # a' b - a b'; a change d of the predicted datum changes the velocity by change / b d
    a: Tensor
    b: Tensor


@dataclass(frozen=True)
class LinearSolver(ControllerBase):
    """Base of controllers for linear inverse problems: a subclass gives ``dynamics`` for one run."""

    measured: Measured

    def __post_init__(self) -> None:
        require(
            isinstance(self.measured, Measured),
            f"{type(self).__name__} got {type(self.measured).__name__}; it solves the problem of a measurement: give "
            "Measured(operator, values, noise)",
        )

    def for_rows(self, start: int, end: int) -> Any:
        return replace(self, measured=self.measured.for_rows(start, end))

    def for_run(self, run: Run) -> Controller:
        return OfRun(lambda f, flow: self.dynamics(f, affine_path(flow, type(self).__name__), self._problem()))

    def steer(self, f: Dynamics, flow: Flow) -> Dynamics:
        return self.dynamics(f, affine_path(flow, type(self).__name__), self._problem())

    def dynamics(self, f: Dynamics, path: AffinePath, problem: Problem) -> Dynamics:
        """The steered drift of one run."""
        raise NotImplementedError

    def _problem(self) -> Problem:
        made: list[tuple[FullOperator, Tensor]] = []

        def problem(like: Tensor) -> tuple[FullOperator, Tensor]:
            if not made:
                made[:] = [self.measured.problem(wide(like))]
                require(
                    made[0][0].linear,
                    f"{type(self).__name__} got {type(self.measured.operator).__name__}, which is not linear; use the "
                    "energy of the measurement: EnergyGuidance(Measured(...))",
                )
            return made[0]

        return problem


def weights(path: AffinePath, t: Tensor) -> Weights:
    """The coefficients (a' b - a b'), a and b; slopes that are infinite at t = 1 are those close to it."""
    a, b, da, db = path.coefficients(path.finite_slope_time(t, 1e-3))
    return Weights(da * b - a * db, a, b)


def predicted(f: Dynamics, path: AffinePath, x: Tensor, t: Tensor, whose: str) -> tuple[Tensor, Tensor, Tensor]:
    """(state, velocity, predicted datum), the datum with a graph to the state; raises ValueError where there is none.

    The graph is recorded whatever the mode of the caller.
    """
    with torch.enable_grad():
        state = x.detach().requires_grad_()
        v = f(state, t)
        require(
            v.requires_grad,
            f"{whose} got a field whose velocity has no gradient with respect to the state; it needs the derivative "
            "of the predicted datum: compute the field from x without detach() and no_grad(), or use Pull()",
        )
        return state, v.detach(), path.data(state, v, t)


def product(data: Tensor, state: Tensor, row: Tensor) -> Tensor:
    """(d data / d state)' row [B,*S], in float32 or better; the graph stays."""
    (made,) = torch.autograd.grad(data, state, row.to(data), retain_graph=True)
    return wide(made)


def normal_variance(a: Tensor, b: Tensor, deviation: float) -> Tensor:
    """Var[x1 | x_t] / b^2 of independent Gaussian data with this deviation."""
    return deviation**2 / (a**2 * deviation**2 + b**2)


def normal_pull(
    problem: tuple[FullOperator, Tensor], data: Tensor, variance: Tensor, noise: float, most: int
) -> Tensor:
    """A' (variance A A' + noise^2)^-1 (y - A data) [B,*S], without evaluations of the field.

    ``variance`` [B] or [B,F] is that of the datum given its state.
    """
    operator, y = problem
    if variance.ndim > 1:  # times by frame: the system is that of the whole datum
        variance = variance.flatten(1).mean(1)

    def push(p: Tensor) -> tuple[Tensor, Tensor]:
        back = operator.adjoint(p)
        return back, scaled(variance, p) * operator.apply(back)

    return pulled(push, y - operator.apply(data), noise**2, 1 if operator.orthogonal else most)


def scaled(number: Tensor, x: Tensor) -> Tensor:
    """A number at every time, as a factor of a state."""
    return expand_time(number, x).to(x)
