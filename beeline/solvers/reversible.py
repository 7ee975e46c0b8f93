"""Reversible solvers, whose inversion is exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.host_times import host_times
from beeline.core.protocols.flows import Solver, SolverTraits
from beeline.core.ranges import dataclass
from beeline.core.types import Dynamics, expand_time
from beeline.solvers.runge_kutta import MIDPOINT, RungeKutta
from beeline.solvers.wrappers import SolverBase, SolverWrapper


@dataclass(frozen=True)
class Reversible(SolverBase):
    """An algebraically reversible explicit method, which integrates two copies of the state.

    y' = k y + (1-k) z + F(z, t -> s),  z' = z - F(y', s -> t);  back: z = z' + F(y', s -> t),
    y = (y' - (1-k) z - F(z, t -> s)) / k,  F the increment of the table
    Assumes the augmented state [B,2,*S] of ``lift``; the field is evaluated on [B,*S].  A round trip is exact to
    rounding if both copies are kept, as a Sampler does with ``augmented=True``; ``lower`` returns the solution.
    Source: McCallum and Foster 2024, "Efficient, Accurate and Stable Gradients for Neural ODEs" (arXiv 2410.11648).

    >>> solver, f = Reversible(), lambda x, t: -x
    >>> there, _ = solver.step(f, solver.lift(torch.ones(1, 1)), torch.zeros(1), torch.ones(1), None)
    >>> back, _ = solver.step(f, there, torch.ones(1), torch.zeros(1), None)
    >>> bool((solver.lower(back) - 1).abs() < 1e-6)
    True
    """

    table: RungeKutta = MIDPOINT
    coupling: float = (
        0.999  # k, in (0, 1]; below 1 it keeps the copies together, and k^-N scales rounding errors of the inverse
    )

    def __post_init__(self) -> None:
        require(
            0 < self.coupling <= 1,
            f"Reversible got coupling={self.coupling}; the inverse step divides by it: set 0 < coupling <= 1, "
            "0.999 is usual",
        )

    @property
    def order(self) -> int:
        return self.table.order

    @property
    def traits(self) -> SolverTraits:
        return SolverTraits(augmented_state=True)

    def lift(self, x: Tensor) -> Tensor:
        """[B,*S] -> [B,2,*S], both copies equal."""
        return torch.stack([x, x], 1)

    def lower(self, state: Tensor) -> Tensor:
        """[B,2,*S] -> [B,*S]."""
        return state[:, 0]

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        require(
            x.ndim >= 2 and x.shape[1] == 2,
            f"Reversible got a state of shape {tuple(x.shape)}; it integrates an augmented state [B,2,*S]: "
            "pass solver.lift(x)",
        )
        y, z = x.unbind(1)
        k = self.coupling
        if bool((host_times(s) > host_times(t)).all()):
            y = k * y + (1 - k) * z + self._increment(f, z, t, s)
            z = z - self._increment(f, y, s, t)
        else:  # the inverse of the step from s to t
            z = z + self._increment(f, y, t, s)
            y = (y - (1 - k) * z - self._increment(f, z, s, t)) / k
        return torch.stack([y, z], 1), None

    def _increment(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.table.step(f, x, t, s, None)[0] - x


@dataclass(frozen=True)
class FixedPoint(SolverWrapper):
    """A one-step solver whose steps towards the source are the exact inverses of those towards the data, by iteration.

    forward: x_s = x + F(x, t -> s);  backward to s: y with y + F(y, s -> t) = x, iterated y <- x - F(y, s -> t)
    Assumes steps short enough for the iteration to converge (|h| times the Lipschitz constant of the field below 1).
    Source: Pan et al. 2023, "Effective Real Image Editing with Accelerated Iterative Diffusion Inversion"
    (arXiv 2309.04907), fixed-point inversion.

    >>> solver, f = FixedPoint(), lambda x, t: -x
    >>> there, _ = solver.step(f, torch.ones(1, 1), torch.zeros(1), torch.full((1,), 0.1), None)
    >>> back, _ = solver.step(f, there, torch.full((1,), 0.1), torch.zeros(1), None)
    >>> bool((back - 1).abs() < 1e-5)
    True
    """

    solver: Solver = MIDPOINT  # a one-step method
    tolerance: float = 1e-6  # largest change of a coordinate at which the iteration stops
    sweeps: int = 50  # most iterations; ValueError beyond

    def __post_init__(self) -> None:
        require(
            self.tolerance > 0 and self.sweeps >= 1,
            f"FixedPoint got tolerance={self.tolerance}, sweeps={self.sweeps}; the iteration could not converge: set "
            "a tolerance above 0 and sweeps >= 1",
        )
        self.check_inner(one_step=True)

    @property
    def own_traits(self) -> SolverTraits:
        return SolverTraits(adaptive=True)

    def init_memory(self, times: Tensor) -> Any:
        return None

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        if bool((host_times(s) > host_times(t)).all()):
            return self.solver.step(f, x, t, s, None)[0], None
        guess = self.solver.step(f, x, t, s, None)[0]

        def again(y: Tensor) -> Tensor:
            return x - (self.solver.step(f, y, s, t, None)[0] - y)

        return anderson_fixed_point(
            again, guess, self.tolerance, self.sweeps, f"the inverse of the step {_interval_text(s, t)}"
        ), None


@dataclass(frozen=True)
class Symmetric(SolverBase):
    """The implicit midpoint rule, solved by iteration: a symmetric method, reversible up to the tolerance.

    x_s = x + h f((x + x_s)/2, (t + s)/2)
    Assumes steps short enough for the iteration to converge.
    Source: Hairer, Lubich and Wanner 2006, "Geometric Numerical Integration", II.1.

    >>> x, _ = Symmetric().step(lambda x, t: -x, torch.ones(1, 1), torch.zeros(1), torch.ones(1), None)
    >>> abs(float(x) - 1 / 3) < 1e-5
    True
    """

    tolerance: float = 1e-7  # largest change of a coordinate at which the iteration stops
    sweeps: int = 50  # most iterations; ValueError beyond
    order = 2

    @property
    def traits(self) -> SolverTraits:
        return SolverTraits(adaptive=True)

    def __post_init__(self) -> None:
        require(
            self.tolerance > 0 and self.sweeps >= 1,
            f"Symmetric got tolerance={self.tolerance}, sweeps={self.sweeps}; the iteration could not converge: set a "
            "tolerance above 0 and sweeps >= 1",
        )

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        wide, middle = expand_time(s - t, x), (t + s) / 2
        guess = torch.addcmul(x, wide, f(x, t) if memory is None else memory)

        def again(y: Tensor) -> Tensor:
            return torch.addcmul(x, wide, f((x + y) / 2, middle))

        new = anderson_fixed_point(
            again, guess, self.tolerance, self.sweeps, f"the implicit step {_interval_text(t, s)}"
        )
        return new, (new - x) / wide


def anderson_fixed_point(
    again: Callable[[Tensor], Tensor], guess: Tensor, tolerance: float, sweeps: int, what: str
) -> Tensor:
    """The fixed point y = again(y) [B,*S] per sample, by Anderson acceleration over the last five iterations.

    Unlike plain iteration it also converges to repelling fixed points.  Raises ValueError without convergence.
    Source: Walker and Ni 2011, "Anderson Acceleration for Fixed-Point Iterations".
    """
    enough = max(tolerance, 4 * torch.finfo(guess.dtype).eps * float(guess.detach().abs().max()))
    y, change = guess, math.inf
    points: list[Tensor] = []
    misses: list[Tensor] = []
    for _ in range(sweeps):
        new = again(y)
        miss = (new - y).flatten(1)
        change = float(miss.detach().abs().max())
        if change <= enough:
            return new
        points, misses = [*points[-5:], new.flatten(1)], [*misses[-5:], miss]
        y = new
        if len(misses) > 1:
            # the combination of the last points with the least residual, by regularised least squares per sample
            steps = torch.stack([a - misses[-1] for a in misses[:-1]], 2)
            moves = torch.stack([a - points[-1] for a in points[:-1]], 2)
            gram = steps.mT @ steps
            size = gram.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]
            ridge = 10 * torch.finfo(y.dtype).eps * size + torch.finfo(y.dtype).tiny
            eye = torch.eye(gram.shape[1], dtype=y.dtype, device=y.device)
            share = torch.linalg.solve(gram + ridge * eye, -(steps.mT @ misses[-1][:, :, None]))
            y = (points[-1] + (moves @ share)[:, :, 0]).reshape(guess.shape)
    raise BeelineError(
        f"{what} still changed by {change:.3g} after {sweeps} iterations; the step is too long for the iteration to "
        "converge: use more steps, or Reversible()"
    )


def _interval_text(t: Tensor, s: Tensor) -> str:
    return f"from t = {float(t.flatten()[0]):.6g} to {float(s.flatten()[0]):.6g}"
