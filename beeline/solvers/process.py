"""Processes: how a flow is drawn from its field, as one value that its path or its field declares."""

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

StateCorrection = Callable[[Tensor, Tensor], Tensor]  # (x, t) -> x
StateCallback = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True)
class Process:
    """The equation dx/dt = v(x, t) in the space of the data: any solver, both ways, with a likelihood.

    Other processes inherit from it and change what differs.  A path or a field declares its process by a method
    ``process()``; a field comes before its path.
    """

    default_solver: Solver | None = (
        None  # what a recipe draws with where it names no other solver; None is the usual one
    )
    space: Any = None  # the curved space of its states; None where they are those of a vector space
    invertible = True  # whether it runs backwards as well
    resizes = False  # whether states change their size on the way

    def adapt_solver(self, solver: Solver) -> Solver:
        """The solver that takes the steps where ``solver`` is given."""
        return solver

    def check(self, flow: Flow, solver: Solver, times: Tensor) -> None:
        """Refuse a solver, or times, that this flow cannot be drawn with."""
        traits, name = complete(solver).traits, type(solver).__name__
        if traits.score:
            flow.require_score()
        for path in traits.paths:
            require(
                path == flow.path,
                f"{name} was given for {path}, but the flow was learned on {flow.path}; its formula needs the flow's "
                "own path: give it with path=",
            )

    def wrap_network(self, network: Any) -> Any:
        """A network as a field of this process."""
        return network

    def field_for_run(self, field: Any, x: Tensor, times: Tensor) -> Any:
        """The field of one run, which begins at ``x``."""
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
        """The last state of a run, as ``integrate`` gives it."""
        return integrate(f, x, times, solver, after=after, watch=watch, done=done)

    def finish(self, field: Any, guided: Callable[[Any], Dynamics], x: Tensor) -> Tensor:
        """The datum [B,*S] that belongs to a state at t = 1; ``guided`` makes dynamics of a field by the guidance."""
        return x

    def likelihood(self, flow: Flow, f: Dynamics, solver: Solver, shape: torch.Size) -> tuple[Dynamics, Solver]:
        """Dynamics whose divergence in the coordinates is that of the flow, and a solver for states [B,D+1]: the
        flat coordinates of ``shape`` [B,*S], and the logarithm of the density."""
        return f, solver


@runtime_checkable
class HasProcess(Protocol):
    """A path or a field with a process of its own."""

    def process(self) -> Process: ...


class FieldReadout:
    """Another output of a field than its velocity, which guidance combines by the same rule.

    ``read(field, x, t, cond)`` is the output; ``with_field`` reads another field in the same way.
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
    """How a flow is drawn: as its field declares, or its path, or as an equation."""
    for part in (unwrapped(flow.field), flow.path):
        if isinstance(part, HasProcess):
            return part.process()
    return Process()


def is_ode(flow: Flow) -> bool:
    """Whether a flow is sampled by solving dx/dt = v(x, t) in the space of the data, which any solver may do."""
    return process_of(flow).invertible


def require_ode(flow: Flow, what: str) -> None:
    """Refuse what only a flow that is sampled as an ODE has."""
    require(
        is_ode(flow),
        f"{what} was asked of a flow of {type(flow.field).__name__} on {type(flow.path).__name__}, which is not "
        "sampled by solving an ODE of its field: it jumps between states, changes resolution or is random, and has "
        "none; train with FlowMatching() for that",
    )


def velocity_on(space: Any, f: Dynamics) -> Dynamics:
    """A velocity on a curved space, continued around it: its divergence in the coordinates is that on the space.

    V(y) = tangent(P y, v(P y)) with P the nearest point is constant across the space, so that only the directions
    along it add to the trace of its Jacobian.
    """

    def along(y: Tensor, t: Tensor, *end: Tensor) -> Tensor:
        x: Tensor = space.project(y)
        made: Tensor = space.tangent(x, f(x, t, *end))
        return made

    return along
