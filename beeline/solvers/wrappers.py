"""Base classes of solvers and of solvers around solvers, and the defaults of the solver protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import FullSolver, Solver, SolverTraits
from beeline.core.ranges import dataclass
from beeline.core.types import Dynamics


class SolverBase:
    """The defaults of FullSolver: no needs, no memory, no noise, the state as it is."""

    @property
    def traits(self) -> SolverTraits:
        return SolverTraits()

    def begin(self, times: Tensor) -> Any:
        return None

    def rekeyed(self, seeds: Sequence[int], *names: int | str | float) -> Any:
        return self

    def part(self, start: int, end: int) -> Any:
        return self

    def lift(self, x: Tensor) -> Tensor:
        return x

    def lower(self, state: Tensor) -> Tensor:
        return state


@dataclass(frozen=True)
class Foreign(SolverBase):
    """A solver that has only ``order`` and ``step``, with the defaults of the other members."""

    solver: Solver

    @property
    def order(self) -> int:
        return self.solver.order

    def rekeyed(self, seeds: Sequence[int], *names: int | str | float) -> Solver:
        return self.solver

    def part(self, start: int, end: int) -> Solver:
        return self.solver

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        return self.solver.step(f, x, t, s, memory)


def complete(solver: Solver) -> FullSolver:
    """The solver with every member of FullSolver."""
    return solver if isinstance(solver, FullSolver) else Foreign(solver)


class SolverWrapper(SolverBase):
    """A solver around another one, ``solver``: it has the inner one's traits beside its own, and passes the rest on.

    A subclass is a dataclass with a field ``solver``; it sets ``own`` to the traits that it adds and calls ``fits``
    with what it cannot work around.  Where the inner solver is given no memory, ``begin`` has to give its own.
    """

    solver: Any

    @property
    def own(self) -> SolverTraits:
        """The traits beside those of the inner solver."""
        return SolverTraits()

    @property
    def order(self) -> int:
        return complete(self.solver).order

    @property
    def traits(self) -> SolverTraits:
        return self.own.merged(complete(self.solver).traits)

    def begin(self, times: Tensor) -> Any:
        return complete(self.solver).begin(times)

    def rekeyed(self, seeds: Sequence[int], *names: int | str | float) -> Any:
        return self._around(complete(self.solver).rekeyed(seeds, *names))

    def part(self, start: int, end: int) -> Any:
        return self._around(complete(self.solver).part(start, end))

    def lift(self, x: Tensor) -> Tensor:
        return complete(self.solver).lift(x)

    def lower(self, state: Tensor) -> Tensor:
        return complete(self.solver).lower(state)

    def _around(self, solver: Solver) -> Any:
        return self if solver is self.solver else replace(self, solver=solver)  # type: ignore[type-var]

    def fits(self, *, one_step: bool = False) -> None:
        """Refuse an inner solver with a lifted state or with several steps at once, whose state must not be changed
        between steps; ``one_step`` refuses those that use earlier steps as well."""
        inner, name = complete(self.solver).traits, type(self.solver).__name__
        require(
            not inner.twin and not inner.parallel,
            f"{type(self).__name__} was put around {name}, whose state "
            f"{'carries a twin' if inner.twin else 'belongs to many steps solved at once'}; it changes the state after "
            f"every step, which {name} cannot know: put {name} outside, or use a plain solver such as HEUN inside",
        )
        require(
            not one_step or not inner.multistep,
            f"{type(self).__name__} was put around {name}, which uses earlier steps; it takes every step by itself, "
            f"so that {name} would fall to its first order: use a one-step solver such as HEUN inside",
        )
