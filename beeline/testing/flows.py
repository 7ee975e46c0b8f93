"""Checks of solvers, paths, couplings, training times and schedules against exact identities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from beeline.core.protocols.flows import source_of
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.paths.affine import AffinePath
from beeline.solvers.integrate import integrate
from beeline.testing.components import check, check_component, unchanged_random_state

_START = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)


def check_solver_order(
    solver: Any,
    order: float | None = None,
    *,
    start: float = 0.0,
    end: float = 1.0,
    steps: Sequence[int] = (),
    tolerance: float = 0.15,
) -> float:
    """Check the convergence order of a solver on x' = -2 t x^2, whose solution is known; returns the measured order.

    ``order`` is by default that of the solver.  A solver whose coefficients are singular at 0 or 1 is measured inside,
    for example from 0.2 to 0.8; ``steps`` are the numbers of steps, several dozen by default.

    >>> from beeline.solvers.runge_kutta import HEUN
    >>> round(check_solver_order(HEUN))
    2
    """
    check_component(solver, "solvers")
    wanted = float(solver.order if order is None else order)
    steps = steps or ((32, 48, 64, 96) if wanted < 4 else (24, 32, 48, 64))
    found = measured_order(lambda n: _error(solver, n, start, end), steps)
    check(
        abs(found - wanted) < tolerance,
        f"{type(solver).__name__} declares order {wanted:g}, but the error of {tuple(steps)} steps from {start:g} to "
        f"{end:g} falls with order {found:.2f}; compare its coefficients with the source",
    )
    return found


def measured_order(error: Callable[[int], float], steps: Sequence[int]) -> float:
    """Minus the slope of log error(n) against log n, by least squares over the numbers of steps.

    >>> round(measured_order(lambda n: 5 / n**3, (10, 20, 40)), 3)
    3.0
    """
    x = torch.tensor([math.log(n) for n in steps], dtype=torch.float64)
    y = torch.tensor([math.log(error(n)) for n in steps], dtype=torch.float64)
    x = x - x.mean()
    return -float((x * y).sum() / (x * x).sum())


def _error(solver: Any, steps: int, start: float, end: float) -> float:
    times = torch.linspace(start, end, steps + 1, dtype=torch.float64)
    found = integrate(lambda x, t: -2 * t[:, None] * x**2, _START, times, solver)
    return float((found - 1 / (1 / _START - start**2 + end**2)).abs().max())


def check_path(
    path: Any,
    shape: Sequence[int] = (3,),
    tolerance: float = 1e-5,
    *,
    x0: Tensor | None = None,
    x1: Tensor | None = None,
) -> None:
    """Check a path between points [B,*shape]: its ends, its slope, and the conversions of an affine path.

    The slope is compared with central differences in float64; x0, x1, x and v are computed from any two of them.
    ``x0`` and ``x1`` [64,*S] are the ends; by default Gaussian points of ``shape``.

    >>> from beeline.paths.affine import Cosine
    >>> check_path(Cosine())
    """
    check_component(path, "paths")
    rng, n = Rng(0), 64
    like, noise = torch.empty(n, *shape, dtype=torch.float64), rng.fork("path")
    x0 = rng.fork("x0").normal(like) if x0 is None else x0
    x1 = rng.fork("x1").normal(like) if x1 is None else x1
    t = torch.linspace(0.05, 0.95, n, dtype=torch.float64)
    for end, wanted in ((0.0, x0), (1.0, x1)):
        found = path.point(x0, x1, torch.full_like(t, end), noise).x
        _close(found, wanted, tolerance, f"the path is not at x{end:.0f} at t = {end:.0f}")
    h = 1e-4
    with unchanged_random_state():
        x, v = path.point(x0, x1, t, noise)
    before, after = (path.point(x0, x1, t + d, noise).x for d in (-h, h))
    _close((after - before) / (2 * h), v, max(tolerance, 1e-4), "v is not the slope of x")
    if not isinstance(path, AffinePath):
        return
    ends = path.ends(x, v, t)
    _close(ends[0], x0, tolerance, "ends(x, v, t) does not give x0")
    _close(ends[1], x1, tolerance, "ends(x, v, t) does not give x1")
    _close(path.velocity(x, t, x0=x0), v, tolerance, "velocity(x, t, x0=x0) is not the slope")
    _close(path.velocity(x, t, x1=x1), v, tolerance, "velocity(x, t, x1=x1) is not the slope")


def _close(found: Tensor, wanted: Tensor, tolerance: float, message: str) -> None:
    error = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1))
    check(error <= tolerance, f"{message}: the relative error is {error:.2e}, and {tolerance:.0e} is allowed")


def check_coupling(coupling: Any, batch: Batch | None = None) -> None:
    """Check that a coupling fills x0 in the shape of x1, keeps the order of the batch and depends on the key alone.

    ``batch`` is by default one of 16 weighted points in the plane, without x0 and conditions.

    >>> from beeline.couplings.basic import Independent
    >>> check_coupling(Independent())
    """
    check_component(coupling, "couplings")
    if batch is None:
        x1 = Rng(1).normal(torch.empty(16, 2))
        batch = Batch(x1, weight=torch.arange(1.0, 17.0))
    with unchanged_random_state():
        found, again, other = (coupling(batch, Rng(seed)) for seed in (0, 0, 1))
    check(found.x0 is not None, "the batch has no x0 after the coupling; return replace(batch, x0=...)")
    check(found.x0.shape == batch.x1.shape, f"x0 has shape {tuple(found.x0.shape)}, x1 {tuple(batch.x1.shape)}")
    check(torch.equal(found.x1, batch.x1), "the coupling changed x1 or its order; reorder x0 instead")
    for name in ("cond", "weight"):
        kept = vars(found)[name], vars(batch)[name]
        check(kept[0] is kept[1] or _equal_trees(*kept), f"the coupling changed {name} or its order")
    check(torch.equal(found.x0, again.x0), "x0 changes from call to call with one key; use the Rng alone")
    sampled = source_of(coupling) is not None and batch.x0 is None
    check(not sampled or not torch.equal(found.x0, other.x0), "x0 does not depend on the key; sample it from the Rng")


def _equal_trees(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return (
        isinstance(a, dict)
        and isinstance(b, dict)
        and a.keys() == b.keys()
        and all(_equal_trees(a[k], b[k]) for k in a)
    )


def check_time_sampler(times: Any, n: int = 50_000, tolerance: float = 0.02) -> None:
    """Check that training times lie in [0, 1] and that their frequencies in ten bins agree with ``log_prob``.

    >>> from beeline.times.samplers import LogitNormal
    >>> check_time_sampler(LogitNormal())
    """
    check_component(times, "times")
    with unchanged_random_state():
        found, again = times(n, torch.empty(0), Rng(0)), times(n, torch.empty(0), Rng(0))
    check(tuple(found.shape) == (n,), f"{n} times were to be sampled, but their shape is {tuple(found.shape)}")
    check(torch.equal(found, again), "the times change from call to call with one key; use the Rng alone")
    check(0 <= float(found.min()) <= float(found.max()) <= 1, "a time lies outside [0, 1]")
    frequency = torch.histc(found.double(), 10, 0.0, 1.0) / n
    grid = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    mass = times.log_prob(grid).double().exp().reshape(10, -1).mean(1) / 10
    error = float((frequency - mass).abs().max())
    check(
        error <= tolerance,
        f"the frequencies in tenths of [0, 1] are {[round(float(f), 3) for f in frequency]}, but log_prob gives "
        f"{[round(float(m), 3) for m in mass]}",
    )


def check_schedule(schedule: Any) -> None:
    """Check that a schedule has steps + 1 strictly monotone times from start to end, in both directions.

    >>> from beeline.times.schedules import Shifted
    >>> check_schedule(Shifted(3.0))
    """
    check_component(schedule, "schedules")
    for steps in (1, 2, 7):
        for start, end in ((0.0, 1.0), (1.0, 0.0), (0.2, 0.7)):
            what = f"{steps} steps from {start} to {end}"
            found = schedule(steps, start, end)
            check(tuple(found.shape) == (steps + 1,), f"{what} have shape {tuple(found.shape)}, not ({steps + 1},)")
            ends = float(found[0]), float(found[-1])
            check(math.isclose(ends[0], start, abs_tol=1e-6), f"{what} start at {ends[0]}")
            check(math.isclose(ends[1], end, abs_tol=1e-6), f"{what} end at {ends[1]}")
            rises = found.diff() * (end - start)
            check((rises > 0).all(), f"{what} are not strictly monotone: {found.tolist()}")
