"""Multistep solvers: one evaluation per step and a history of the last ones."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.host_times import host_times, map_times
from beeline.core.protocols.flows import Array, Clock, Number, SolverTraits
from beeline.core.ranges import dataclass
from beeline.core.types import Dynamics, expand_time
from beeline.paths.affine import AffinePath, Linear
from beeline.solvers.exponential import (
    LogSNR,
    Time,
    coefficient_rows,
    correction_weights,
    ddim_weights,
    earlier,
    end_weights,
    linear_combination,
    path_coefficients,
    polynomial_weights,
    run_times,
)
from beeline.solvers.runge_kutta import EULER, HEUN, RK3, RungeKutta
from beeline.solvers.wrappers import SolverBase


class History(NamedTuple):
    """The memory of a multistep run: the coefficients of its steps, the steps done, and the last values."""

    times: Array  # [N+1,...] in float64
    rows: Sequence[tuple[Number, ...]]  # coefficients of each step
    done: int = 0
    values: tuple[Tensor, ...] = ()  # newest first
    start: Tensor | None = None  # the state before the last step, where a later step corrects it

    @property
    def row(self) -> tuple[Number, ...]:
        """The coefficients of the next step."""
        return self.rows[self.done]

    def push(self, value: Tensor, length: int, start: Tensor | None = None) -> History:
        """The memory after a step with the estimate ``value``."""
        return self._replace(done=self.done + 1, values=(value, *self.values)[:length], start=start)


class Multistep(SolverBase):
    """Base class of multistep solvers, whose coefficients are computed once for a run."""

    def coefficients(self, times: Array) -> list[Array]:
        """The coefficients [N,...] of the steps between ``times`` [N+1,...]."""
        raise NotImplementedError

    def init_memory(self, times: Tensor) -> History:
        return self._history(run_times(times), times)

    def _history(self, known: Array, like: Tensor) -> History:
        with np.errstate(all="ignore"):  # NaN stands for a time before the run, or an infinite clock
            return History(known, coefficient_rows(self.coefficients(known), like))

    def memory(self, memory: History | None, t: Tensor, s: Tensor) -> History:
        """The memory of a step from t to s; without a run, or beyond its end, its coefficients are computed."""
        if memory is not None and memory.done < len(memory.rows):
            return memory
        step = run_times(torch.stack([host_times(t), host_times(s)]))
        if memory is None:
            return self._history(step, t)
        known = np.concatenate([memory.times, step[1:]])
        return self._history(known, t)._replace(done=memory.done, values=memory.values, start=memory.start)


def _starting_method(order: int) -> RungeKutta:
    """The Runge-Kutta method for the first steps of a multistep method of ``order``, of one order less."""
    return {1: EULER, 2: EULER, 3: HEUN, 4: RK3}[order]


def _check_order(solver: object, order: int, highest: int) -> None:
    require(
        1 <= order <= highest,
        f"{type(solver).__name__} got order={order!r}; it is defined for orders 1 to {highest}: set one of them",
    )


@dataclass(frozen=True)
class AdamsBashforth(Multistep):
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

    def coefficients(self, times: Array) -> list[Array]:
        t, s = times[:-1], times[1:]
        nodes, weights = earlier(t, self.order), [np.zeros_like(t)] * self.order
        for count in range(1, self.order + 1):  # the most values that exist
            more = polynomial_weights(nodes[:count], t, s)
            weights = [
                *(np.where(np.isfinite(more[-1]), a, b) for a, b in zip(more, weights, strict=False)),
                *weights[count:],
            ]
        return weights

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        run = self.memory(memory, t, s)
        v = f(x, t)
        now = run.push(v, self.order)
        if len(now.values) < self.order and not self.ramp:
            return _starting_method(self.order).step(_with_first_value(f, v), x, t, s, None)[0], now
        return linear_combination([(1.0, x), *zip(run.row, now.values, strict=False)]), now


@dataclass(frozen=True)
class DEIS(Multistep):
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

    def coefficients(self, times: Array) -> list[Array]:
        t, s = times[:-1], times[1:]
        change = correction_weights(self.path, self.clock, self.noise, t, s, earlier(t, self.order))
        return [*end_weights(self.path, t, self.noise), *ddim_weights(self.path, t, s), *change]

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        run = self.memory(memory, t, s)
        v = f(x, t)
        (p, q, *row) = run.row
        now = run.push(linear_combination([(p, x), (q, v)]), self.order)
        if len(now.values) < self.order and not self.ramp:
            return _starting_method(self.order).step(_with_first_value(f, v), x, t, s, None)[0], now
        return linear_combination(list(zip(row, (x, v, *now.values), strict=False))), now


@dataclass(frozen=True)
class DPMSolver(Multistep):
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

    def coefficients(self, times: Array) -> list[Array]:
        t, s = times[:-1], times[1:]
        change = data_correction_weights(self.path, t, s, earlier(t, self.order))
        return [*end_weights(self.path, t, False), *ddim_weights(self.path, t, s), *change]

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        run = self.memory(memory, t, s)
        v = f(x, t)
        p, q, *row = run.row
        now = run.push(linear_combination([(p, x), (q, v)]), self.order)
        return linear_combination(list(zip(row, (x, v, *now.values), strict=False))), now


@dataclass(frozen=True)
class UniPC(Multistep):
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

    def coefficients(self, times: Array) -> list[Array]:
        t, s = times[:-1], times[1:]
        (a, b), (a_s, b_s) = path_coefficients(self.path, t), path_coefficients(self.path, s)
        ratio, gain, none = b_s / b, a_s - b_s / b * a, np.zeros_like(t)
        nodes = earlier(t, self.order)
        change = data_correction_weights(self.path, t, s, nodes)
        # from the corrected state, with the estimate at the predicted one, which saves an evaluation
        predictor = [ratio, none, gain + change[0]]
        ddim = [*ddim_weights(self.path, t, s), change[0]]  # at the end where b is zero
        predictor = [*(np.where(b > 0, u, w) for u, w in zip(predictor, ddim, strict=True)), *change[1:]]
        corrector = [none, ratio, *self._corrector(gain, t, s, nodes)]
        keep = [none + 1, *[none] * (self.order + 2)]
        corrector = [np.where(b > 0, u, w) for u, w in zip(corrector, keep, strict=True)]
        # the corrector of a step is used in the next one
        corrector = [np.concatenate([w[:1], w[:-1]]) for w in corrector]
        return [*end_weights(self.path, t, False), *corrector, *predictor]

    def _corrector(self, gain: Array, t: Array, s: Array, nodes: Sequence[Array]) -> list[Array]:
        """Weights of the estimate at the end of each step, and of those at ``nodes``.

        The weights of the polynomial in the log signal-to-noise ratio; those of the trapezium, as published, where that
        is infinite or no estimate before the start is known.
        """
        none = np.zeros_like(t)
        trapezium = weights = [gain / 2, gain / 2, *[none] * (self.order - 1)]
        for count in range(2, self.order + 1):  # as many as are known
            new = LogSNR().weights(self.path, False, t, s, [s, *nodes[:count]])
            new = [new[0], gain - new[0] - np.sum(new[2:], 0), *new[2:], *[none] * (self.order - count)]
            good, known = np.isfinite(new).all(0), np.isfinite(nodes[count - 1])
            new = [np.where(good, u, w) for u, w in zip(new, trapezium, strict=True)]
            weights = [np.where(known, u, w) for u, w in zip(new, weights, strict=True)]
        return weights

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        run = self.memory(memory, t, s)
        v = f(x, t)
        (p, q, *row), count = run.row, self.order + 3
        data = linear_combination([(p, x), (q, v)])
        if run.start is not None:
            x = linear_combination(list(zip(row[:count], (x, run.start, data, *run.values), strict=False)))
        now = run.push(data, self.order, start=x)
        return linear_combination(list(zip(row[count:], (x, v, *now.values), strict=False))), now


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
        forward = bool((host_times(s) > host_times(t)).all())
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
        if any(bool((self.path.a(host_times(at)) == 0).any()) for at in (t, s)):
            return self.table.step(f, x, t, s, None)
        # u = (sigma - sigma_t) / (sigma_s - sigma_t) runs over [0, 1]; the time of a stage is computed from u
        wide = expand_time(b_s / a_s - b / a, x)
        y, slopes = x / expand_time(a, x), [self.path.noise(x, f(x, t), t)]
        for row in self.table.a:
            at = map_times(functools.partial(self._stage, sum(row)), t, s)
            state = expand_time(self.path.a(at), x) * (y + wide * _weighted_sum(row, slopes))
            slopes.append(self.path.noise(state, f(state, at), at))
        return expand_time(a_s, x) * (y + wide * _weighted_sum(self.table.b, slopes)), None

    def _stage(self, share: float, t: Tensor, s: Tensor) -> Tensor:
        """The time at which b/a has covered ``share`` of its way from t to s."""
        if abs(share - 1) < 1e-12:
            return s
        sigma, end = (self.path.b(at) / self.path.a(at) for at in (t, s))
        return self.path.time_of_ratio(torch.ones_like(sigma), sigma + share * (end - sigma))


def data_correction_weights(path: AffinePath, t: Array, s: Array, nodes: Sequence[Array]) -> list[Array]:
    """The correction of DPM-Solver++ for data estimates.

    With two nodes, 2M: half the last change of the estimate, times the ratio of the steps in ln(a/b).
    """
    if len(nodes) != 2:
        return correction_weights(path, LogSNR(), False, t, s, nodes)
    end, here, before = (LogSNR().at(path, time) for time in (s, *nodes))
    (a, b), (a_s, b_s) = path_coefficients(path, t), path_coefficients(path, s)
    gain = (a_s - b_s / b * a) * (end - here) / (here - before) / 2
    gain = np.where(np.isfinite([end, here, before]).all(0) & (b > 0), gain, 0.0)
    return [gain, -gain]


def _weighted_sum(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    return linear_combination(list(zip(weights, slopes, strict=True)))


def _with_first_value(f: Dynamics, v: Tensor) -> Dynamics:
    """The dynamics ``f`` whose first evaluation returns the known value ``v``."""
    first = [v]
    return lambda x, t: first.pop() if first else f(x, t)
