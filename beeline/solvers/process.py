"""Sampling processes: how samples are computed from the field of a flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from beeline.core.declared import Traits, traits_of, unwrapped
from beeline.core.errors import require
from beeline.core.protocols.flows import Solver
from beeline.core.types import Cond, Dynamics
from beeline.fields.flow import Flow
from beeline.solvers.integrate import integrate
from beeline.solvers.wrappers import complete

StateCorrection = Callable[[Tensor, Tensor], Tensor]  # (x, t) -> corrected x
StateCallback = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True)
class Process:
    """The ODE dx/dt = v(x, t) in the space of the data: any solver, invertible, with a likelihood.

    Base class of other processes.  A path or a field declares its process by a method ``process()``; that of the field
    takes precedence.
    """

    default_solver: Solver | None = None  # solver of recipes that set none; None is the default of Sampler
    space: Any = None  # manifold of the states; None for a vector space
    invertible = True  # whether it can be integrated towards the source
    resizes = False  # whether the resolution of the states changes

    def adapt_solver(self, solver: Solver) -> Solver:
        """The solver to use for a given one."""
        return solver

    def check(self, flow: Flow, solver: Solver, times: Tensor) -> None:
        """Raise ValueError for a solver or times [steps+1] that do not fit the flow."""
        traits, name = complete(solver).traits, type(solver).__name__
        if traits.score:
            flow.require_score()
        for path in traits.paths:
            require(
                path == flow.path,
                f"{name} got path={path}, but the flow was trained on {flow.path}; its formula uses the coefficients "
                f"of the path: set path={flow.path}",
            )

    def wrap_network(self, network: Any) -> Any:
        """The field of this process for a network."""
        return network

    def field_for_run(self, field: Any, x: Tensor, times: Tensor) -> Any:
        """The field of one run over ``times`` [steps+1] with the initial state ``x`` [B,*S]."""
        return field

    def run(
        self,
        f: Dynamics,
        x: Tensor,
        times: Tensor,
        solver: Solver,
        *,
        after: StateCorrection | None = None,
        watch: StateCallback | None = None,
        done: Callable[[Any], None] | None = None,
    ) -> Tensor:
        """Integrate and return the last state; the arguments are those of ``integrate``."""
        return integrate(f, x, times, solver, after=after, watch=watch, done=done)

    def finish(self, field: Any, guided: Callable[[Any], Dynamics], x: Tensor) -> Tensor:
        """The datum [B,*S] of a state [B,*S] at t = 1; ``guided(field)`` returns the guided dynamics of a field."""
        return x

    def likelihood(self, flow: Flow, f: Dynamics, solver: Solver, shape: torch.Size) -> tuple[Dynamics, Solver]:
        """Dynamics with the divergence of the flow, and a solver for augmented states.

        The augmented state [B,D+1] holds the flattened coordinates of ``shape`` [B,*S] and the change of the log
        density.
        """
        return f, solver


@runtime_checkable
class HasProcess(Protocol):
    """A path or a field that declares its process."""

    def process(self) -> Process: ...


class FieldReadout:
    """An output of a field other than its velocity, as a field, so that guidance applies to it.

    ``read(field, x, t, cond)`` returns the output; ``with_field`` reads the same output of another field.
    """

    def __init__(self, read: Callable[[Any, Tensor, Tensor, Cond], Tensor], field: Any):
        self.read, self.field = read, field

    @property
    def traits(self) -> Traits:
        return traits_of(self.field)

    def with_field(self, field: Any) -> FieldReadout:
        return self if field is self.field else FieldReadout(self.read, field)

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        return self.read(self.field, x, t, cond)


def process_of(flow: Flow) -> Process:
    """The process that the field of a flow declares, else that of its path, else an ODE."""
    for part in (unwrapped(flow.field), flow.path):
        if isinstance(part, HasProcess):
            return part.process()
    return Process()


def is_ode(flow: Flow) -> bool:
    """Whether a flow is sampled by solving the ODE dx/dt = v(x, t) in the space of the data."""
    return process_of(flow).invertible


def require_ode(flow: Flow, what: str) -> None:
    """Raise ValueError unless the flow is sampled by an ODE; ``what`` names the operation that needs it."""
    require(
        is_ode(flow),
        f"{what} of a flow of {type(flow.field).__name__} on {type(flow.path).__name__} was requested; it is not "
        "sampled by an ODE (it jumps between states, changes resolution or is random) and has no inverse: train with "
        "FlowMatching() on a path such as Linear()",
    )


def velocity_on(space: Any, f: Dynamics) -> Dynamics:
    """The extension of a velocity on a manifold to its surroundings, with the divergence of the manifold.

    V(y) = tangent(P y, v(P y)) with P the projection; it is constant in normal directions, which therefore do not
    contribute to the trace of its Jacobian.
    """

    def along(y: Tensor, t: Tensor, *end: Tensor) -> Tensor:
        x: Tensor = space.project(y)
        velocity: Tensor = space.tangent(x, f(x, t, *end))
        return velocity

    return along
