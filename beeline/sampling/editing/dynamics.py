"""Dynamics of edits: noise for every datum, dynamics of several conditions, samplers for inversion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.modes import check_together, deferred, eval_mode
from beeline.core.protocols.flows import Guidance
from beeline.core.rng import Rng
from beeline.core.types import Cond, Dynamics, leaves, map_cond
from beeline.fields.flow import Flow
from beeline.paths.affine import AffinePath, Linear
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.sampler import Sampler
from beeline.solvers.integrate import integrate
from beeline.solvers.process import require_ode
from beeline.solvers.wrappers import complete

Drift: TypeAlias = Callable[..., Dynamics]
"""(cond, guidance=None) -> the guided and steered drift of a flow under a condition; None is that of the sampler."""


def noise(rng: Rng, like: Tensor, *names: int | str | float) -> Tensor:
    """Standard normal noise for data [B,*S], of which row i depends on the key and on i alone."""
    return rng.fork("noise", *names).rows(range(len(like)), like)


def noise_at(rng: Rng, t: Tensor, like: Tensor, *names: int | str | float) -> Tensor:
    """Noise that is a function of the time: equal in all evaluations at one time, independent at others."""
    return noise(rng, like, *names, float(host_times(t).flatten()[0]))


def along(
    flow: Flow,
    x: Tensor,
    sampler: Sampler,
    dynamics: Callable[[Drift], Dynamics],
    *,
    start: float = 0.0,
    end: float = 1.0,
    watch: Callable[[Tensor, Tensor], None] | None = None,
    after: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Integrate dynamics made of drifts of the flow under several conditions, from states ``x`` [B,*S] at ``start``.

    ``dynamics(drift)`` returns (x, t) -> dx/dt; ``drift(cond, guidance)`` is the guided drift of a run, steered by the
    controllers of the sampler, whose corrections of the state do not apply.  A condition of k times the rows gives a
    drift for states of k times the rows.  ``after(x, t)`` returns a corrected state after every step.
    Steps, schedule and solver are those of the sampler.  Raises ValueError for a flow without an ODE, and for one whose
    field is a flow map.
    """
    require_ode(flow, "an edit")
    require(
        not is_map(flow.field),
        "this edit combines velocities, and the flow is a flow map, which makes jumps: edit with its teacher, or use "
        "SDEdit",
    )
    solver, times = complete(sampler.solver), sampler.times(start, end)
    require(
        not solver.traits.stochastic and not solver.traits.augmented_state,
        f"this edit combines velocities, and {type(sampler.solver).__name__} does not solve an ODE of the state alone; "
        "use HEUN, MIDPOINT or EULER",
    )

    require(
        flow.trained is None or not flow.trained.fixed,
        "this edit evaluates velocities at the times of its own grid, and the flow is a student that was trained at "
        f"{flow.trained and flow.trained.text()} alone: edit with its teacher",
    )

    def drift(cond: Cond, guidance: Guidance | None = None) -> Dynamics:
        how = sampler if guidance is None else replace(sampler, guidance=guidance)
        rows = next((len(leaf) for _, leaf in leaves(cond) if leaf.ndim), len(x))
        return how.drift(flow, torch.cat([x] * max(1, rows // len(x))), cond, times)

    parts = (flow, sampler.guidance, sampler.controllers)
    check_together("the data", x, *parts)
    with eval_mode(*parts), deferred():
        return integrate(dynamics(drift), x, times, sampler.solver, watch=watch, after=after)


def plain(sampler: Sampler) -> Sampler:
    """The sampler without guidance and controllers, as inversions use it: guidance makes the inverse inexact."""
    return replace(sampler, guidance=Plain(), controllers=())


def require_linear(flow: Flow, whose: str) -> None:
    """Raise ValueError unless the flow is on the straight path, on which states are t x1 + (1 - t) x0."""
    require(
        isinstance(flow.path, Linear),
        f"{whose} got a flow on {type(flow.path).__name__}; it adds a change of the data to noisy states, which is "
        "defined on the straight path: use a flow on Linear(), or InvertAndSample()",
    )


def noising_path(flow: Flow, whose: str) -> AffinePath:
    """The path of a flow or a flow map; raises ValueError where it does not say how data are noised."""
    require(
        isinstance(flow.path, AffinePath),
        f"{whose} got a flow on {type(flow.path).__name__}; it noises data as an affine path does: use a flow on a "
        "path such as Linear()",
    )
    assert isinstance(flow.path, AffinePath)
    return flow.path


def to_device(cond: Cond, like: Tensor) -> Cond:
    """The condition on the device of the data."""
    return map_cond(lambda leaf: leaf.to(like.device), cond)
