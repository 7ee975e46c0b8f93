"""Base classes of solvers and solver wrappers, with the defaults of the solver protocol."""

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
    """Default members of FullSolver: no requirements, no memory, no noise, an unchanged state."""

    @property
    def traits(self) -> SolverTraits:
        return SolverTraits()

    def init_memory(self, times: Tensor) -> Any:
        return None

    def with_seeds(self, seeds: Sequence[int], *names: int | str | float) -> Any:
        return self

    def for_rows(self, start: int, end: int) -> Any:
        return self

    def lift(self, x: Tensor) -> Tensor:
        return x

    def lower(self, state: Tensor) -> Tensor:
        return state


@dataclass(frozen=True)
class CompletedSolver(SolverBase):
    """A solver that defines only ``order`` and ``step``, completed with the defaults of SolverBase."""

    solver: Solver

    @property
    def order(self) -> int:
        return self.solver.order

    def with_seeds(self, seeds: Sequence[int], *names: int | str | float) -> Solver:
        return self.solver

    def for_rows(self, start: int, end: int) -> Solver:
        return self.solver

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        return self.solver.step(f, x, t, s, memory)


def complete(solver: Solver) -> FullSolver:
    """Return the solver with every member of FullSolver; a solver that has them all is returned unchanged."""
    return solver if isinstance(solver, FullSolver) else CompletedSolver(solver)


class SolverWrapper(SolverBase):
    """Base class of solvers around another solver: merges both sets of traits and forwards every other member.

    A subclass is a dataclass with a field ``solver``.  It overrides ``own_traits`` with the traits that it adds, and
    calls ``check_inner`` in ``__post_init__``.  A subclass that passes ``None`` as the inner solver's memory also
    overrides ``init_memory``.
    """

    solver: Any

    @property
    def own_traits(self) -> SolverTraits:
        """The traits that the wrapper adds to those of the inner solver."""
        return SolverTraits()

    @property
    def order(self) -> int:
        return complete(self.solver).order

    @property
    def traits(self) -> SolverTraits:
        return self.own_traits.merged(complete(self.solver).traits)

    def init_memory(self, times: Tensor) -> Any:
        return complete(self.solver).init_memory(times)

    def with_seeds(self, seeds: Sequence[int], *names: int | str | float) -> Any:
        return self._around(complete(self.solver).with_seeds(seeds, *names))

    def for_rows(self, start: int, end: int) -> Any:
        return self._around(complete(self.solver).for_rows(start, end))

    def lift(self, x: Tensor) -> Tensor:
        return complete(self.solver).lift(x)

    def lower(self, state: Tensor) -> Tensor:
        return complete(self.solver).lower(state)

    def _around(self, solver: Solver) -> Any:
        return self if solver is self.solver else replace(self, solver=solver)  # type: ignore[type-var]

    def check_inner(self, *, one_step: bool = False) -> None:
        """Check that the inner solver allows its state to be changed between steps.

        Raises ValueError for an inner solver with an augmented state or one that is parallel in time; with
        ``one_step`` also for a multistep solver.
        """
        inner, name = complete(self.solver).traits, type(self.solver).__name__
        kind = "an augmented state" if inner.augmented_state else "steps solved in parallel"
        require(
            not inner.augmented_state and not inner.parallel,
            f"{type(self).__name__} got the inner solver {name}, which has {kind}; {type(self).__name__} changes the "
            f"state after every step, which invalidates those of {name}: use {name} as the outer solver, or a plain "
            "solver such as HEUN as the inner one",
        )
        require(
            not one_step or not inner.multistep,
            f"{type(self).__name__} got the inner solver {name}, which is a multistep method; the history of earlier "
            f"steps is discarded, which reduces {name} to first order: use a one-step solver such as HEUN",
        )
