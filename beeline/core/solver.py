"""Solvers: one step of dx/dt = f(x, t) from time t to time s, with all memory passed in and out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from beeline.core.declared import is_map
from beeline.core.ranges import Count, dataclass
from beeline.core.types import Dynamics, over, require


@dataclass(frozen=True)
class Traits:
    """What a solver needs of a flow, and how it behaves; the defaults are those of a plain ODE method."""

    paths: tuple[Any, ...] = ()  # whose coefficients its formulas use: each has to be the flow's own
    score: bool = False  # needs a Gaussian source and an independent coupling
    adaptive: bool = False  # the number of evaluations depends on the field
    stochastic: bool = False  # adds noise
    multistep: bool = False  # uses earlier steps: a single step of it is of lower order
    parallel: bool = False  # solves many steps at once, which it learns of in ``begin``
    twin: bool = False  # its state is lifted to [B,2,*S]
    tokens: bool = False  # its states stay one-hot
    space: Any = None  # the curved space on which its states stay

    def merged(self, inner: Traits) -> Traits:
        """The traits of a solver with these of its own around a solver with the traits ``inner``."""
        return Traits(
            (*self.paths, *(path for path in inner.paths if path not in self.paths)),
            self.score or inner.score,
            self.adaptive or inner.adaptive,
            self.stochastic or inner.stochastic,
            self.multistep or inner.multistep,
            self.parallel or inner.parallel,
            self.twin or inner.twin,
            self.tokens or inner.tokens,
            inner.space if self.space is None else self.space,
        )


class Solver(Protocol):
    """One step of an ODE or SDE method: all that a solver has to have.

    ``order`` is the order of convergence of the end point; ``memory`` is None on the first step of a run, or what
    ``begin`` gave.  The other members of FullSolver have defaults: inherit SolverBase to set some of them.
    """

    @property
    def order(self) -> int: ...

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]: ...


@runtime_checkable
class FullSolver(Solver, Protocol):
    """A solver with every member that the package uses; ``complete`` makes one of any solver."""

    @property
    def traits(self) -> Traits: ...

    def begin(self, times: Tensor) -> Any:
        """The memory of a run over ``times``, all of its times."""

    def rekeyed(self, seeds: Sequence[int], *names: int | str | float) -> Solver:
        """The same solver with noise keyed by one seed per sample (or by none); ``names`` tell runs apart."""

    def part(self, start: int, end: int) -> Solver:
        """The solver of the rows start .. end-1 of a batch: their seeds, or else noise of their own."""

    def lift(self, x: Tensor) -> Tensor:
        """The state that is integrated, from a state [B,*S]."""

    def lower(self, state: Tensor) -> Tensor:
        """The state [B,*S] of what was integrated."""


class SolverBase:
    """The defaults of FullSolver: no needs, no memory, no noise, the state as it is."""

    @property
    def traits(self) -> Traits:
        return Traits()

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
    def own(self) -> Traits:
        """The traits beside those of the inner solver."""
        return Traits()

    @property
    def order(self) -> int:
        return complete(self.solver).order

    @property
    def traits(self) -> Traits:
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


@dataclass(frozen=True)
class RungeKutta(SolverBase):
    """An explicit Runge-Kutta method given by its table.

    k_i = f(x + h sum_j a_ij k_j, t + c_i h),  x_s = x + h sum_i b_i k_i,  c_i = sum_j a_ij,  h = s - t
    Assumes a smooth field.  The first row of ``a``, which is empty, is left out.
    Source: Butcher 2016, "Numerical Methods for Ordinary Differential Equations".

    >>> RungeKutta(2, ((0.5,),), (0.0, 1.0)) == MIDPOINT
    True
    """

    order: Count
    a: tuple[tuple[float, ...], ...]  # rows of increasing length 1, 2, ...
    b: tuple[float, ...]  # weights, summing to 1

    def __post_init__(self) -> None:
        require(
            abs(sum(self.b) - 1) < 1e-12 and [len(r) for r in self.a] == list(range(1, len(self.b))),
            f"this is no explicit Runge-Kutta table: b={self.b} must sum to 1 and a={self.a} must have one row "
            "for every stage after the first, of lengths 1, 2, ...",
        )

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        h = s - t
        wide = over(h, x)
        slopes = [f(x, t)]
        for row in self.a:
            c = sum(row)
            # the end is taken as given: t + h may round to just outside [0, 1]
            slopes.append(f(advance(x, wide, row, slopes), s if abs(c - 1) < 1e-12 else t + c * h))
        return advance(x, wide, self.b, slopes), None


EULER = RungeKutta(1, (), (1.0,))
MIDPOINT = RungeKutta(2, ((0.5,),), (0.0, 1.0))
HEUN = RungeKutta(2, ((1.0,),), (0.5, 0.5))
RALSTON = RungeKutta(2, ((2 / 3,),), (0.25, 0.75))
RK3 = RungeKutta(3, ((0.5,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6))
RK4 = RungeKutta(4, ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))


@dataclass(frozen=True)
class Taylor(SolverBase):
    """Second-order Taylor step, the total derivative of the velocity taken from one evaluation further along.

    v' ~ (f(x + d v, t + d) - v) / d with d = reach h,  x_s = x + h v + h^2/2 v'
    Assumes a smooth field.  A reach of 1/2 is the midpoint rule exactly (RF-Solver as released), 1 is Heun.
    Source: Wang et al. 2024, "Taming Rectified Flow for Inversion and Editing" (arXiv 2411.04746).

    >>> x, _ = Taylor().step(lambda x, t: 2 * t[:, None], torch.zeros(1, 1), torch.zeros(1), torch.ones(1), None)
    >>> float(x)
    1.0
    """

    reach: float = 0.5  # part of the step after which the slope is looked at again, above 0 to 1
    order = 2

    def __post_init__(self) -> None:
        require(
            0 < self.reach <= 1,
            f"Taylor got reach={self.reach}; the second evaluation has to lie inside the step: give 0 < reach <= 1",
        )

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        h = s - t
        wide = over(h, x)
        v = f(x, t)
        ahead = f(torch.addcmul(x, wide, v, value=self.reach), s if self.reach == 1 else t + self.reach * h)
        share = 0.5 / self.reach
        return torch.addcmul(x, wide, (1 - share) * v + share * ahead), None


@dataclass(frozen=True)
class MidpointReuse(SolverBase):
    """The midpoint rule whose first stage is the last midpoint velocity: order two for one evaluation a step.

    x_m = x + h/2 c,  c' = f(x_m, t + h/2),  x_s = x + h c';  c is c' of the step before, f(x, t) in the first
    Assumes that neighbouring steps are of similar length and that the velocity changes little over one.
    Source: Deng et al. 2024, "FireFlow" (arXiv 2412.07517).

    >>> x, memory = MidpointReuse().step(lambda x, t: x, torch.ones(1, 1), torch.zeros(1), torch.ones(1), None)
    >>> float(x), float(memory)
    (2.5, 1.5)
    """

    order = 2

    @property
    def traits(self) -> Traits:
        return Traits(multistep=True)

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        h = s - t
        wide = over(h, x)
        known = f(x, t) if memory is None else memory
        middle = f(torch.addcmul(x, wide, known, value=0.5), t + 0.5 * h)
        return torch.addcmul(x, wide, middle), middle


@dataclass(frozen=True)
class Jump(SolverBase):
    """The step of a flow map: its average velocity, all the way.

    x_s = x + (s - t) u(x, t, s)
    Assumes a flow map; one step is exact when the map is.
    Source: Boffi, Albergo and Vanden-Eijnden 2024, "Flow Map Matching" (arXiv 2406.07507).

    >>> from beeline.core.declared import as_map
    >>> one = as_map(lambda x, t, s=None: torch.ones_like(x))
    >>> Jump().step(one, torch.zeros(1, 1), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[1.]])
    """

    order: Count = 1

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        require(
            is_map(f),
            "Jump() was given a velocity field; it needs a flow map u(x, t, s), which knows where the jump ends: "
            "use an ODE solver such as EULER, or distil the field into a flow map",
        )
        return x + over(s - t, x) * f(x, t, s=s), None


def advance(x: Tensor, h: Tensor, weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """x + h sum_i weights_i slopes_i, with ``h`` already as wide as ``x``."""
    used = [(w, k) for w, k in zip(weights, slopes, strict=True) if w != 0]
    if not used:
        return x
    (w, k), *rest = used
    total = k if w == 1 else w * k
    for w, k in rest:
        total = torch.add(total, k, alpha=w)
    return torch.addcmul(x, h, total)
