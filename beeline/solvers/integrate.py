"""The integration loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import as_map, is_map
from beeline.core.errors import IntegrationError, require
from beeline.core.host_times import host_times, set_host_times
from beeline.core.modes import check_later, deferred
from beeline.core.protocols.flows import Solver
from beeline.core.types import Dynamics
from beeline.solvers.runge_kutta import HEUN
from beeline.solvers.wrappers import complete

__all__ = ["IntegrationError", "integrate"]

_AHEAD = 64  # time vectors created at once, so that memory does not grow with the number of steps


def integrate(
    f: Dynamics,
    x: Tensor,
    times: Tensor,
    solver: Solver = HEUN,
    *,
    after: Callable[[Tensor, Tensor], Tensor] | None = None,
    watch: Callable[[Tensor, Tensor], None] | None = None,
    done: Callable[[Any], None] | None = None,
) -> Tensor:
    """Solve dx/dt = f(x, t) from ``x`` [B,*S] along ``times``; returns the last state [B,*S] in float32 or float64.

    ``times`` is [N+1], [N+1,B] or [N+1,B,F] (shared, per sample, or per frame), within [0, 1] and strictly monotone
    along the first dimension; falling times integrate towards the source.  ``after(x, t)`` returns a corrected state
    after each step.  ``watch(x, t)`` is called with the initial state and the state after each step, ``done(memory)``
    with the solver's memory at the end: the counts of an adaptive solver, the log-probability of a stochastic one.

    Raises ValueError for invalid times, and IntegrationError, which has the last good state, if the field returns
    another shape, another dtype or non-finite values; the message names the step and its time.  On an accelerator,
    finiteness is checked once, at the end, with the other checks of values (``deferred``).
    """
    times, dtype = _checked_times(x, times)
    x = x.to(dtype)
    memory = complete(solver).init_memory(times)
    vectors = _time_vectors(times, len(x))
    i, t = 0, next(vectors)

    def checked(y: Tensor, at: Tensor, **end: Tensor) -> Tensor:
        v = f(y, at, **end)
        if v.shape != y.shape or v.dtype != y.dtype:
            raise IntegrationError(
                f"in step {i}, at t = {_first_value(at):.6g}, the field returned {v.dtype} {tuple(v.shape)} for a "
                f"state of {y.dtype} {tuple(y.shape)}; a velocity has the dtype and shape of its state: convert it "
                "inside the field",
                x,
                _first_value(t),
            )
        return v

    field: Dynamics = as_map(lambda y, at, s=None: checked(y, at, s=at if s is None else s)) if is_map(f) else checked

    def broken(step: int, last: Tensor) -> IntegrationError:
        start, end = (_first_value(time) for time in host_times(times)[step : step + 2])
        return IntegrationError(
            f"the state became non-finite in step {step}, from t = {start:.6g} to {end:.6g}; the field returned NaN or "
            "infinite values: check it at that time, use more steps, or lower the guidance scale (the last good state "
            "is error.x)",
            last,
            start,
        )

    if watch is not None:
        watch(x, t)
    waits = x.device.type != "cpu"  # reading a value waits for the accelerator: done once, at the end
    last, good, steps = x.detach(), torch.ones((), dtype=torch.bool, device=x.device), torch.zeros((), device=x.device)
    with deferred():
        for s in vectors:
            new, memory = solver.step(field, x, t, s, memory)
            if waits:
                good = good & new.detach().isfinite().all()
                steps = steps + good
            # a sum is the cheapest check; its overflow alone is not an error
            elif not math.isfinite(new.sum().item()) and not bool(new.isfinite().all()):
                raise broken(i, x)
            x = new if after is None else after(new, s)
            if waits:
                last = torch.where(good, x.detach(), last)
            i, t = i + 1, s
            if watch is not None:
                watch(x, t)
        if waits:
            check_later(good, lambda: broken(int(steps), last))
    if done is not None:
        done(memory)
    return x


def _first_value(t: Tensor) -> float:
    return float(host_times(t).flatten()[0])


def _time_vectors(times: Tensor, batch: int) -> Iterator[Tensor]:
    """The times of each step, [B] or [B,F]; materialised, since forward-mode differentiation rejects views."""
    known, waits = host_times(times), times.device.type != "cpu"
    for start in range(0, len(times), _AHEAD):
        part, values = times[start : start + _AHEAD], known[start : start + _AHEAD]
        vectors = (part[:, None].repeat(1, batch) if times.ndim == 1 else part.clone()).unbind(0)
        for t, value in zip(vectors, values, strict=True) if waits else ():
            set_host_times(t, value if times.ndim > 1 else value.expand(batch))
        yield from vectors


def _checked_times(x: Tensor, times: Tensor) -> tuple[Tensor, torch.dtype]:
    """The times in the dtype of the integration, on the device of the state."""
    require(
        x.is_floating_point() and x.ndim >= 1,
        f"the state has dtype {x.dtype} and shape {tuple(x.shape)}; it cannot be integrated: pass a floating point "
        "tensor [B,*S]",
    )
    require(
        times.ndim >= 1 and len(times) >= 2 and times.is_floating_point(),
        f"times have shape {tuple(times.shape)} and dtype {times.dtype}; a step needs two times: pass floating point "
        "times [steps+1] with at least one step",
    )
    values = host_times(times).detach()
    steps = values.diff(dim=0)
    require(
        bool((steps > 0).all() or (steps < 0).all()),
        f"times are not strictly monotone: {values.flatten()[:6].tolist()}...; a step has a positive length: pass "
        "times that increase (sampling) or decrease (inversion) at every step",
    )
    ends = values[[0, -1]]
    require(
        bool(((ends >= 0) & (ends <= 1)).all()),
        f"times run from {float(ends[0].flatten()[0]):.6g} to {float(ends[-1].flatten()[0]):.6g}, outside [0, 1]; "
        "t = 0 is the source and t = 1 the data: divide times that run to 1000, use 1 - sigma for noise levels",
    )
    require(
        times.ndim == 1 or times.shape[1:] == x.shape[: times.ndim - 1],
        f"times have shape {tuple(times.shape)} for a state of shape {tuple(x.shape)}; the dimensions after the first "
        "must be those of the state: pass [steps+1], [steps+1, B] or [steps+1, B, F]",
    )
    dtype = torch.promote_types(x.dtype, torch.float32)
    return set_host_times(times.to(x.device, dtype), values.to(dtype)), dtype
