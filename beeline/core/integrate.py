"""The one loop over times."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from beeline.core.solver import HEUN, Solver
from beeline.core.types import BeelineError, Dynamics, require


class IntegrationError(BeelineError):
    """A run that could not go on; ``x`` and ``t`` are the last good state and its time."""

    def __init__(self, message: str, x: Tensor, t: float):
        super().__init__(message)
        self.x, self.t = x, t


def integrate(
    f: Dynamics,
    x: Tensor,
    times: Tensor,
    solver: Solver = HEUN,
    *,
    after: Callable[[Tensor, Tensor], Tensor] | None = None,
    watch: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Solve dx/dt = f(x, t) along ``times`` and give the last state [B,*S], in float32 or better.

    ``times`` is [N+1], or [N+1,B] or [N+1,B,F] for times of their own per sample or frame; strictly monotone along
    the first dimension, rising or falling (inversion is the same call), within [0, 1].
    ``after(x, t)`` corrects the state after each step; ``watch(x, t)`` sees the start and the state after each step.

    Raises ValueError for unfit times, and IntegrationError (which holds the last good state) when the field returns
    another shape or non-finite values; the message names the step and its time.
    """
    grid = _grid(x, times)
    x = x.to(grid.dtype)
    memory = None
    if watch is not None:
        watch(x, grid[0])
    for i in range(len(grid) - 1):
        t, s = grid[i], grid[i + 1]
        new, memory = solver.step(f, x, t, s, memory)
        if new.shape != x.shape or new.dtype != x.dtype:
            raise IntegrationError(
                f"step {i} at t = {float(t.flatten()[0]):.6g} gave {new.dtype} {tuple(new.shape)} from a state of "
                f"{x.dtype} {tuple(x.shape)}; a field returns a velocity of the shape and dtype of its state: "
                "convert inside the field",
                x,
                float(t.flatten()[0]),
            )
        # one sum is the cheapest test; an overflow of the sum alone is not an error
        if not math.isfinite(float(new.detach().sum())) and not bool(new.isfinite().all()):
            raise IntegrationError(
                f"the state became non-finite in step {i}, from t = {float(t.flatten()[0]):.6g} to "
                f"{float(s.flatten()[0]):.6g}; the field gave NaN or infinite values there: check it at that time, "
                "take more steps or lower the guidance (the last good state is in .x of this error)",
                x,
                float(t.flatten()[0]),
            )
        x = new if after is None else after(new, s)
        if watch is not None:
            watch(x, s)
    return x


def _grid(x: Tensor, times: Tensor) -> Tensor:
    """The times as a materialised [N+1,B,...] tensor in the dtype of the integration."""
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
    times = times.to(x.device, torch.promote_types(x.dtype, torch.float32))
    if times.ndim == 1:
        # materialised, never an expanded view: forward-mode differentiation rejects those
        return times[:, None].repeat(1, len(x))
    require(
        times.shape[1:] == x.shape[: times.ndim - 1],
        f"times have shape {tuple(times.shape)} beside a state of {tuple(x.shape)}; "
        "pass [steps+1], [steps+1, B] or [steps+1, B, F]",
    )
    return times.contiguous()
