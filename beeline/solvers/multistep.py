"""Multistep solvers: one evaluation per step and a history of the last ones."""

from __future__ import annotations

from dataclasses import field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Clock, Number, SolverTraits
from beeline.core.ranges import dataclass
from beeline.core.types import Dynamics, expand_time
from beeline.paths.affine import AffinePath, Linear
from beeline.solvers.exponential import (
    LogSNR,
    Time,
    linear_combination,
    path_coefficients,
    polynomial_weights,
    scale_by,
    shared_time,
)
from beeline.solvers.runge_kutta import EULER, HEUN, RK3, RungeKutta
from beeline.solvers.wrappers import SolverBase


class History(NamedTuple):
    """The memory of a multistep solver: times and values, newest first."""

    times: tuple[Number, ...] = ()
    values: tuple[Tensor, ...] = ()

    def push(self, t: Number, value: Tensor, length: int) -> History:
        return History((t, *self.times)[:length], (value, *self.values)[:length])


def _starting_method(order: int) -> RungeKutta:
    """The Runge-Kutta method for the first steps of a multistep method of ``order``, of one order less."""
    return {1: EULER, 2: EULER, 3: HEUN, 4: RK3}[order]


def _check_order(solver: object, order: int, highest: int) -> None:
    require(
        1 <= order <= highest,
        f"{type(solver).__name__} got order={order!r}; it is defined for orders 1 to {highest}: set one of them",
    )


@dataclass(frozen=True)
class AdamsBashforth(SolverBase):
    """Adams-Bashforth: integrates the polynomial through the last velocities, for any step lengths.

    x_s = x + sum_j w_j v_j,  w_j the integral over [t, s] of the j-th Lagrange polynomial in time
    Assumes a smooth field.  Orders 3 and 4 start with Runge-Kutta steps of one order less (2 and 6 more evaluations);
    with ``ramp`` they start with lower orders instead, and the end point is of order two.
    Source: Butcher 2016, "Numerical Methods for Ordinary Differential Equations".

    >>> AdamsBashforth(2).step(lambda x, t: x, torch.ones(1, 1), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[2.]])
    """

    order: int = 2  # velocities used, 1 to 4
    ramp: bool = False  # start with lower orders, for few evaluations

    def __post_init__(self) -> None:
        _check_order(self, self.order, 4)

    @property
    def traits(self) -> SolverTraits:
        return SolverTraits(multistep=self.order > 1)

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        past = memory or History()
        v = f(x, t)
        now = past.push(shared_time(t), v, self.order)
        if len(now.times) < self.order and not self.ramp:
            return _starting_method(self.order).step(_with_first_value(f, v), x, t, s, None)[0], now
        weights = polynomial_weights(now.times, now.times[0], shared_time(s))
        return linear_combination([(1.0, x), *zip(weights, now.values, strict=True)]), now


@dataclass(frozen=True)
class DEIS(SolverBase):
    """DEIS, an exponential multistep method: the linear part exactly, a polynomial in the clock for the estimate.

    x_s = (b_s/b_t) x + b_s integral of D d(a/b), D ~ polynomial through the last data estimates (or, with ``noise``,
    x_s = (a_s/a_t) x + a_s integral of E d(b/a));  exact for a constant estimate
    Assumes the affine path of the flow.  The first steps, and steps where the clock is infinite, are of lower order.
    Source: Zhang and Chen 2023, "Fast Sampling of Diffusion Models with Exponential Integrator" (arXiv 2204.13902).

    >>> DEIS(2).step(lambda x, t: 1 - x, torch.zeros(1, 1), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[1.]])
    """

    order: int = 2  # estimates used, 1 to 4; 3 and 4 are better from about ten evaluations
    path: AffinePath = field(default_factory=Linear)  # the flow's
    clock: Clock = field(default_factory=Time)
    noise: bool = False  # interpolate noise estimates instead of data estimates
    ramp: bool = True  # False: start with Runge-Kutta steps, for high orders with many steps

    def __post_init__(self) -> None:
        _check_order(self, self.order, 4)

    @property
    def traits(self) -> SolverTraits:
        return SolverTraits(paths=(self.path,), multistep=self.order > 1)

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        past = memory or History()
        v = f(x, t)
        now = past.push(shared_time(t), self._estimate(x, v, t), self.order)
        if len(now.times) < self.order and not self.ramp:
            return _starting_method(self.order).step(_with_first_value(f, v), x, t, s, None)[0], now
        new = ddim_step(self.path, x, v, t, s)
        return add_polynomial_correction(self.path, self.clock, self.noise, new, now, shared_time(s)), now

    def _estimate(self, x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        return self.path.noise(x, v, t) if self.noise else self.path.data(x, v, t)


@dataclass(frozen=True)
class DPMSolver(SolverBase):
    """DPM-Solver++ in multistep form (1, 2M, 3M): a polynomial in the log signal-to-noise ratio for the datum.

    2M: D' = D + (D - D_before) h / (2 h_before) constant over the step, h in ln(a/b);  3M: the integrated quadratic
    Assumes the affine path of the flow.  Steps from or to an end, where ln(a/b) is infinite, are of first order.
    Source: Lu et al. 2022, "DPM-Solver++" (arXiv 2211.01095).

    >>> DPMSolver(2).step(lambda x, t: 1 - x, torch.zeros(1, 1), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[1.]])
    """

    order: int = 2  # data estimates used, 1 to 3
    path: AffinePath = field(default_factory=Linear)  # the flow's

    def __post_init__(self) -> None:
        _check_order(self, self.order, 3)

    @property
    def traits(self) -> SolverTraits:
        return SolverTraits(paths=(self.path,), multistep=self.order > 1)

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        past = memory or History()
        v = f(x, t)
        now = past.push(shared_time(t), self.path.data(x, v, t), self.order)
        new, end = ddim_step(self.path, x, v, t, s), shared_time(s)
        if self.order == 2:
            return add_second_order_correction(self.path, new, now, end), now
        return add_polynomial_correction(self.path, LogSNR(), False, new, now, end), now


@dataclass(frozen=True)
class UniPC(SolverBase):
    """UniPC, a predictor-corrector method with one evaluation per step: each estimate also corrects the previous step.

    the predictor of DPM-Solver++;  then x_s = (b_s/b_t) x + b_s integral of D d(a/b) again, with D through D_s as well
    Assumes the affine path of the flow.  The last step is not corrected.
    Source: Zhao et al. 2023, "UniPC" (arXiv 2302.04867).

    >>> UniPC(2).step(lambda x, t: 1 - x, torch.zeros(1, 1), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[1.]])
    """

    order: int = 2  # data estimates of the predictor, 1 to 3
    path: AffinePath = field(default_factory=Linear)  # the flow's

    def __post_init__(self) -> None:
        _check_order(self, self.order, 3)

    @property
    def traits(self) -> SolverTraits:
        return SolverTraits(paths=(self.path,), multistep=True)

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        v, here, end = f(x, t), shared_time(t), shared_time(s)
        data = self.path.data(x, v, t)
        past, before = memory or (History(), None)
        if before is not None:
            x = self._correct(before, past, data, here)
        now = past.push(here, data, self.order)
        # from the corrected state, with the estimate at the predicted one, which saves an evaluation
        (a, b), (a_s, b_s) = path_coefficients(self.path, here), path_coefficients(self.path, end)
        if _positive(b):
            new = linear_combination([(b_s / b, x), (a_s - b_s / b * a, data)])
        else:
            new = ddim_step(self.path, x, v, t, s)
        new = (
            add_second_order_correction(self.path, new, now, end)
            if self.order == 2
            else add_polynomial_correction(self.path, LogSNR(), False, new, now, end)
        )
        return new, (now, x)

    def _correct(self, x: Tensor, past: History, data: Tensor, t: Number) -> Tensor:
        """The step to ``t`` recomputed with the estimate at ``t``."""
        (a, b), (a_t, b_t) = path_coefficients(self.path, past.times[0]), path_coefficients(self.path, t)
        if not _positive(b):
            return linear_combination([(b_t, x)])  # unreachable for increasing times: b is positive before t = 1
        base = linear_combination([(b_t / b, x), (a_t - b_t / b * a, past.values[0])])
        if len(past.times) == 1:  # the trapezium, as published
            return linear_combination([(1.0, base), (0.5 * (a_t - b_t / b * a), data - past.values[0])])
        nodes = (t, *past.times[: self.order])
        weights = LogSNR().weights(self.path, False, past.times[0], t, nodes)
        if weights is None:
            return linear_combination([(1.0, base), (0.5 * (a_t - b_t / b * a), data - past.values[0])])
        values = (data, *past.values[: self.order])
        return linear_combination(
            [(1.0, base), *((w, d - past.values[0]) for w, d in zip(weights, values, strict=True))]
        )


@dataclass(frozen=True)
class KeepNoise(SolverBase):
    """Keeps the initial noise in every step: exact for straight trajectories only.

    x_s = a_s D + b_s x0, D the datum estimated at (x, t);  backwards x_s = b_s E + a_s x1
    Assumes straight trajectories (a reflowed or distilled flow); on a curved flow it does not converge, so its order is
    0.  ``x0`` is the source point estimated in the first step, which is the initial state at t = 0.
    Source: Lee, Lin and Fanti 2024, "Improving the Training of Rectified Flows" (arXiv 2405.20320), the new sampler.

    >>> KeepNoise().step(lambda x, t: 1 - x, torch.zeros(1, 1), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[1.]])
    """

    path: AffinePath = field(default_factory=Linear)  # the flow's
    heun: bool = False  # average the estimates at both ends of the step; two evaluations per step
    order = 0

    @property
    def traits(self) -> SolverTraits:
        return SolverTraits(paths=(self.path,), multistep=True)

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        forward = bool((s > t).all())
        far, near = (self.path.data, self.path.noise) if forward else (self.path.noise, self.path.data)
        v = f(x, t)
        start = near(x, v, t) if memory is None else memory
        estimate = far(x, v, t)
        new = self._on_line(estimate, start, s, forward)
        if self.heun:
            estimate = (estimate + far(new, f(new, s), s)) / 2
            new = self._on_line(estimate, start, s, forward)
        return new, start

    def _on_line(self, far: Tensor, near: Tensor, s: Tensor, forward: bool) -> Tensor:
        a, b = expand_time(self.path.a(s), far), expand_time(self.path.b(s), far)
        return a * far + b * near if forward else b * far + a * near


@dataclass(frozen=True)
class Exponential(SolverBase):
    """An exponential Runge-Kutta step, the sampler of EDM for any tableau.

    dy = E dsigma with y = x/a and sigma = b/a;  exact for a constant noise estimate E
    Assumes the affine path of the flow.  A step from or to t = 0, where sigma is infinite, is integrated in time.
    Source: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models" (arXiv 2206.00364).

    >>> x, t = torch.full((1, 1), 0.5), torch.full((1,), 0.5)
    >>> Exponential().step(lambda x, t: 1 + 0 * x, x, t, torch.ones(1), None)[0]
    tensor([[1.]])
    """

    table: RungeKutta = HEUN
    path: AffinePath = field(default_factory=Linear)  # the flow's

    @property
    def order(self) -> int:
        return self.table.order

    @property
    def traits(self) -> SolverTraits:
        return SolverTraits(paths=(self.path,))

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        (a, b), (a_s, b_s) = (self.path.a(t), self.path.b(t)), (self.path.a(s), self.path.b(s))
        if bool((a == 0).any() | (a_s == 0).any()):
            return self.table.step(f, x, t, s, None)
        # u = (sigma - sigma_t) / (sigma_s - sigma_t) runs over [0, 1]; the time of a stage is computed from u
        sigma, span = b / a, b_s / a_s - b / a
        wide = expand_time(span, x)
        y, slopes = x / expand_time(a, x), [self.path.noise(x, f(x, t), t)]
        for row in self.table.a:
            c = sum(row)
            at = s if abs(c - 1) < 1e-12 else self._time(sigma + c * span, t, s)
            state = expand_time(self.path.a(at), x) * (y + wide * _weighted_sum(row, slopes))
            slopes.append(self.path.noise(state, f(state, at), at))
        return expand_time(a_s, x) * (y + wide * _weighted_sum(self.table.b, slopes)), None

    def _time(self, sigma: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The time between t and s with b/a = ``sigma``: in closed form on the straight path, else by bisection."""
        if isinstance(self.path, Linear):
            return 1 / (1 + sigma)
        low, high = torch.minimum(t, s).double(), torch.maximum(t, s).double()
        for _ in range(50):
            middle = (low + high) / 2
            late = self.path.b(middle) / self.path.a(middle) < sigma
            low, high = torch.where(late, low, middle), torch.where(late, middle, high)
        return ((low + high) / 2).to(t.dtype)


def ddim_step(path: AffinePath, x: Tensor, v: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x_s for the ends estimated at t: the step of DDIM, which is Euler's on the straight path."""
    if isinstance(path, Linear):
        return torch.addcmul(x, expand_time(s - t, x), v)
    source, data = path.ends(x, v, t)
    return expand_time(path.a(s), x) * data + expand_time(path.b(s), x) * source


def add_polynomial_correction(
    path: AffinePath, clock: Clock, noise: bool, new: Tensor, now: History, s: Number
) -> Tensor:
    """Add the change of the estimate, interpolated from its past values, to a step with a constant estimate."""
    if len(now.times) == 1:
        return new
    weights = clock.weights(path, noise, now.times[0], s, now.times)
    if weights is None:  # the clock is infinite at a node: with fewer values it may be finite
        return add_polynomial_correction(path, clock, noise, new, History(now.times[:-1], now.values[:-1]), s)
    newest = now.values[0]
    return linear_combination(
        [(1.0, new), *((w, d - newest) for w, d in zip(weights[1:], now.values[1:], strict=True))]
    )


def add_second_order_correction(path: AffinePath, new: Tensor, now: History, s: Number) -> Tensor:
    """The correction of 2M: half the last change of the estimate, times the ratio of the steps in ln(a/b)."""
    if len(now.times) == 1:
        return new
    clock = LogSNR()
    end, here, before = (clock.at(path, time) for time in (s, *now.times))
    ratio = (end - here) / (here - before) if all(map(_finite, (end, here, before))) else 0.0
    (a, b), (a_s, b_s) = path_coefficients(path, now.times[0]), path_coefficients(path, s)
    gain = (a_s - b_s / b * a) * ratio / 2 if _positive(b) else 0.0
    return new + scale_by(gain, now.values[0] - now.values[1])


def _weighted_sum(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    return linear_combination(list(zip(weights, slopes, strict=True)))


def _with_first_value(f: Dynamics, v: Tensor) -> Dynamics:
    """The dynamics ``f`` whose first evaluation returns the known value ``v``."""
    first = [v]
    return lambda x, t: first.pop() if first else f(x, t)


def _positive(b: Number) -> bool:
    return b > 0 if isinstance(b, float) else bool((b > 0).all())


def _finite(x: Number) -> bool:
    return abs(x) < float("inf") if isinstance(x, float) else bool(x.isfinite().all())
