"""Parallel in time: several steps solved at once by fixed-point iteration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Solver, SolverTraits
from beeline.core.ranges import dataclass
from beeline.core.types import Dynamics
from beeline.solvers.runge_kutta import EULER
from beeline.solvers.wrappers import SolverWrapper, complete


class ParallelState(NamedTuple):
    """The memory of a parallel run: the solved states and the guess for those that follow."""

    times: Tensor | None  # [N+1,...] times of the run
    done: int = 0  # number of states returned
    ready: tuple[Tensor, ...] = ()  # solved states that are not returned yet
    guess: Tensor | None = None  # [W,B,*S] states after those
    last: Tensor | None = None  # the last returned state
    rounds: int = 0  # batched calls of the solver
    evaluations: int = 0  # number of evaluations, over all steps of all rounds


class ParallelInTime(SolverWrapper):
    """Base class of solvers that take several steps of their inner solver in one batch."""

    @property
    def own_traits(self) -> SolverTraits:
        return SolverTraits(adaptive=True, parallel=True)

    def init_memory(self, times: Tensor) -> ParallelState:
        return ParallelState(times)


@dataclass(frozen=True)
class Picard(ParallelInTime):
    """Picard iteration over a sliding window of steps, evaluated in one batch (ParaDiGMS).

    x_i <- x + sum over j < i of F(x_j, t_j -> t_j+1) for all i of the window at once;  the window moves past the steps
    whose change is below the tolerance
    Assumes memory for window x batch states and a field without memory.  The result is that of the sequential solver to
    the tolerance, with more evaluations in fewer rounds.
    Source: Shih et al. 2023, "Parallel Sampling of Diffusion Models" (arXiv 2305.16317).

    >>> x, _ = Picard().step(lambda x, t: x, torch.ones(1, 1), torch.zeros(1), torch.ones(1), None)
    >>> float(x)
    2.0
    """

    window: int = 16  # steps per window
    tolerance: float = 1e-4  # root mean square change of a state, in units of the state; the worst sample counts
    solver: Solver = EULER  # a one-step method with a fixed number of evaluations and no noise

    def __post_init__(self) -> None:
        _check_inner_solver(self, "window", self.window, self.tolerance)
        require(
            complete(self.solver).traits.space is None,
            f"Picard got the inner solver {type(self.solver).__name__}, whose states stay on a manifold; sums of steps "
            "leave it by the tolerance: use GaussSeidelJacobi(), which returns the results of steps",
        )

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        m = _current_state(memory, x)
        if m.times is None:
            return self.solver.step(f, x, t, s, None)[0], m
        while not m.ready:
            grid = m.times[m.done : m.done + self.window + 1]
            guess = _initial_guess(m.guess, x, len(grid) - 1)
            before = torch.cat([x[None], guess[:-1]])
            calls = CountedField(f)
            steps = _batched_step(self.solver, calls, before, grid) - before
            new = x + steps.cumsum(0)
            quiet = (_rms_change(new, guess) <= self.tolerance).long().cumprod(0).sum().item()
            front = max(1, int(quiet))  # the first state is exact after one round
            m = m._replace(ready=tuple(new[:front].unbind(0)), guess=new[front:], rounds=m.rounds + 1)
            m = m._replace(evaluations=m.evaluations + len(guess) * calls.count)
        return _next_state(m)


@dataclass(frozen=True)
class GaussSeidelJacobi(ParallelInTime):
    """Gauss-Seidel iteration over blocks of steps with Jacobi iteration inside each block.

    x_i+1 <- x_i + F(x_i, t_i -> t_i+1) for all i of a block at once, until the largest change is below tolerance;
    exact after as many rounds as the block has steps
    Assumes memory for stretch x batch states and a field without memory.
    Source: Liu and Qin 2025, "Accelerate TarFlow Sampling with GS-Jacobi Iteration" (arXiv 2505.12849).

    >>> x, _ = GaussSeidelJacobi().step(lambda x, t: x, torch.ones(1, 1), torch.zeros(1), torch.ones(1), None)
    >>> float(x)
    2.0
    """

    stretch: int = 8  # steps per block
    tolerance: float = 1e-6  # root mean square change of a state, in units of the state; the worst sample counts
    solver: Solver = EULER  # a one-step method with a fixed number of evaluations and no noise

    def __post_init__(self) -> None:
        _check_inner_solver(self, "stretch", self.stretch, self.tolerance)

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        m = _current_state(memory, x)
        if m.times is None:
            return self.solver.step(f, x, t, s, None)[0], m
        if not m.ready:
            grid = m.times[m.done : m.done + self.stretch + 1]

            calls = CountedField(f)

            def sweep(states: Tensor) -> Tensor:
                return _batched_step(self.solver, calls, torch.cat([x[None], states[:-1]]), grid)

            solved, rounds = jacobi_iteration(sweep, _initial_guess(None, x, len(grid) - 1), self.tolerance)
            spent = (len(grid) - 1) * calls.count
            m = m._replace(ready=tuple(solved.unbind(0)), rounds=m.rounds + rounds, evaluations=m.evaluations + spent)
        return _next_state(m)


def jacobi_iteration(
    sweep: Callable[[Tensor], Tensor], guess: Tensor, tolerance: float, most: int | None = None
) -> tuple[Tensor, int]:
    """The fixed point of a strictly causal map on [T,B,*S], and the number of rounds.

    Position i of ``sweep(x)`` depends on earlier positions only, so that T rounds are exact.  The iteration stops
    earlier if the largest change (root mean square per position and sample) is at most ``tolerance``.
    """
    most = min(most or len(guess), len(guess))
    for k in range(1, most + 1):
        new = sweep(guess)
        change = float(_rms_change(new, guess).max())
        guess = new
        if change <= tolerance:
            return guess, k
    return guess, most


class CountedField:
    """Dynamics that count their evaluations."""

    def __init__(self, f: Dynamics):
        self.f, self.count = f, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.count += 1
        return self.f(x, t)


def _check_inner_solver(solver: ParallelInTime, name: str, length: int, tolerance: float) -> None:
    require(
        length >= 1 and tolerance > 0,
        f"{type(solver).__name__} got {name}={length} and tolerance={tolerance}; the iteration could not end: "
        f"set {name} to at least 1 and tolerance above 0",
    )
    solver.check_inner(one_step=True)
    inner, inside = complete(solver.solver).traits, type(solver.solver).__name__
    require(
        not inner.adaptive and not inner.stochastic,
        f"{type(solver).__name__} got the inner solver {inside}, which "
        f"{'adds noise' if inner.stochastic else 'has no fixed number of evaluations'}; many steps are solved in one "
        "batch, which changes its result: use EULER, HEUN or another deterministic one-step method",
    )


def _current_state(memory: Any, x: Tensor) -> ParallelState:
    """The memory, without the solved states and the guess if the state was corrected."""
    m = memory or ParallelState(None)
    return m if m.last is None or m.last is x else m._replace(ready=(), guess=None)


def _next_state(m: ParallelState) -> tuple[Tensor, ParallelState]:
    return m.ready[0], m._replace(ready=m.ready[1:], done=m.done + 1, last=m.ready[0])


def _initial_guess(guess: Tensor | None, x: Tensor, length: int) -> Tensor:
    """A guess for ``length`` states: the known ones, then the last known state repeated."""
    known = x[None] if guess is None or len(guess) == 0 else guess[:length]
    return torch.cat([known, known[-1:].expand(length - len(known), *x.shape)])


def _batched_step(solver: Solver, f: Dynamics, states: Tensor, grid: Tensor) -> Tensor:
    """One step from each state [W,B,*S] over its interval, in one batch of W B samples."""
    w, b = states.shape[:2]
    t, s = grid[:-1], grid[1:]
    if grid.ndim == 1:
        t, s = t[:, None].repeat(1, b), s[:, None].repeat(1, b)
    flat = solver.step(f, states.flatten(0, 1), t.flatten(0, 1), s.flatten(0, 1), None)[0]
    return flat.reshape(w, b, *states.shape[2:])


def _rms_change(new: Tensor, old: Tensor) -> Tensor:
    """[W] root mean square change of each state, the largest over the batch; infinity if it is not finite."""
    change = (new - old).detach().reshape(*new.shape[:2], -1).square().mean(2).amax(1).sqrt()
    return torch.where(change.isfinite(), change, torch.full_like(change, torch.inf))
