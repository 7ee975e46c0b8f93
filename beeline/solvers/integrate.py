"""The one loop over times."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import as_map, is_map
from beeline.core.errors import IntegrationError, require
from beeline.core.modes import deferred
from beeline.core.protocols.flows import Solver
from beeline.core.types import Dynamics
from beeline.solvers.runge_kutta import HEUN
from beeline.solvers.wrappers import complete

__all__ = ["IntegrationError", "integrate"]

_AHEAD = 64  # time vectors made at once: few enough that memory does not grow with the number of steps


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
    """Solve dx/dt = f(x, t) along ``times`` and give the last state [B,*S], in float32 or better.

    ``times`` is [N+1], or [N+1,B] or [N+1,B,F] for times of their own per sample or frame; strictly monotone along
    the first dimension, rising or falling (inversion is the same call), within [0, 1].
    ``after(x, t)`` corrects the state after each step; ``watch(x, t)`` sees the start and the state after each step;
    ``done(memory)`` sees the solver's memory at the end: the counts of an adaptive solver, the log-probability of a
    stochastic one.

    Raises ValueError for unfit times, and IntegrationError (which holds the last good state) when the field returns
    another shape, another dtype or non-finite values; the message names the step and its time.  On an accelerator
    non-finite values are looked for once, at the end.
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
                f"in step {i}, at t = {_first_value(at):.6g}, the field gave {v.dtype} {tuple(v.shape)} for a state of "
                f"{y.dtype} {tuple(y.shape)}; a velocity has those of its state: convert inside the field",
                x,
                _first_value(t),
            )
        return v

    field: Dynamics = as_map(lambda y, at, s=None: checked(y, at, s=at if s is None else s)) if is_map(f) else checked

    def broken(step: int, last: Tensor) -> IntegrationError:
        start, end = _first_value(times[step]), _first_value(times[step + 1])
        return IntegrationError(
            f"the state became non-finite in step {step}, from t = {start:.6g} to {end:.6g}; the field "
            "gave NaN or infinite values there: check it at that time, take more steps or lower the guidance "
            "(the last good state is in .x of this error)",
            last,
            start,
        )

    if watch is not None:
        watch(x, t)
    waits = x.device.type != "cpu"  # a look at a number waits for an accelerator: there one is taken at the end
    last, good, steps = x.detach(), torch.ones((), dtype=torch.bool, device=x.device), torch.zeros((), device=x.device)
    with deferred():
        for s in vectors:
            new, memory = solver.step(field, x, t, s, memory)
            if waits:
                good = good & new.detach().isfinite().all()
                steps = steps + good
            # one sum is the cheapest test; an overflow of the sum alone is not an error
            elif not math.isfinite(new.detach().sum().item()) and not bool(new.isfinite().all()):
                raise broken(i, x)
            x = new if after is None else after(new, s)
            if waits:
                last = torch.where(good, x.detach(), last)
            i, t = i + 1, s
            if watch is not None:
                watch(x, t)
        if waits and (whole := int(steps)) < i:
            raise broken(whole, last)
    if done is not None:
        done(memory)
    return x


def _first_value(t: Tensor) -> float:
    return float(t.flatten()[0])


def _time_vectors(times: Tensor, batch: int) -> Iterator[Tensor]:
    """The times one by one, [B] or [B,F]; materialised, since forward-mode differentiation rejects views."""
    for start in range(0, len(times), _AHEAD):
        part = times[start : start + _AHEAD]
        yield from (part[:, None].repeat(1, batch) if times.ndim == 1 else part.clone()).unbind(0)


def _checked_times(x: Tensor, times: Tensor) -> tuple[Tensor, torch.dtype]:
    """The times in the dtype of the integration, on the device of the state."""
    require(
        x.is_floating_point() and x.ndim >= 1,
        f"the state is {x.dtype} of shape {tuple(x.shape)}; pass floating point [B,*S]",
    )
    require(
        times.ndim >= 1 and len(times) >= 2 and times.is_floating_point(),
        f"times have shape {tuple(times.shape)} and dtype {times.dtype}; pass [steps+1] floating point times",
    )
    steps = times.diff(dim=0)
    require(
        bool((steps > 0).all() or (steps < 0).all()),
        f"times are not strictly monotone: {times.flatten()[:6].tolist()}...; "
        "they have to rise (sampling) or fall (inversion) at every step",
    )
    ends = times.detach()[[0, -1]]
    require(
        bool(((ends >= 0) & (ends <= 1)).all()),
        f"times run from {float(ends[0].flatten()[0]):.6g} to {float(ends[-1].flatten()[0]):.6g}, outside [0, 1]; "
        "t = 0 is the source and t = 1 the data: divide times that run to 1000, use 1 - sigma for noise levels",
    )
    require(
        times.ndim == 1 or times.shape[1:] == x.shape[: times.ndim - 1],
        f"times have shape {tuple(times.shape)} beside a state of {tuple(x.shape)}; "
        "pass [steps+1], [steps+1, B] or [steps+1, B, F]",
    )
    dtype = torch.promote_types(x.dtype, torch.float32)
    return times.to(x.device, dtype), dtype
