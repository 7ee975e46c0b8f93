"""Parallel in time: many steps of a walk solved at once, by fixed-point iteration over the whole stretch."""

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
    """The memory of a parallel run: what is solved already, and the guess for what is not."""

    times: Tensor | None  # [N+1,...] of the whole walk
    done: int = 0  # steps handed out
    ready: tuple[Tensor, ...] = ()  # states solved and not yet handed out
    guess: Tensor | None = None  # [W,B,*S] states after those
    last: Tensor | None = None  # the state handed out last
    rounds: int = 0  # batched calls of the solver
    evaluations: int = 0  # evaluations, each step of each round counted


class ParallelInTime(SolverWrapper):
    """What solvers of many steps at once share: their inner solver takes every step by itself, all in one batch."""

    @property
    def own_traits(self) -> SolverTraits:
        return SolverTraits(adaptive=True, parallel=True)

    def init_memory(self, times: Tensor) -> ParallelState:
        return ParallelState(times)


@dataclass(frozen=True)
class Picard(ParallelInTime):
    """A sliding window of steps, all evaluated in one batch and summed up until they no longer change (ParaDiGMS).

    x_i <- x + sum over j < i of F(x_j, t_j -> t_j+1) for all i of the window at once;  the front of the window whose
    change is below the tolerance is handed out, and the window moves on
    Assumes memory for window x batch states, and a field without memory of its own.  The answer is the sequential
    solver's to the tolerance; the number of evaluations rises, the number of rounds falls.
    Source: Shih et al. 2023, "Parallel Sampling of Diffusion Models" (arXiv 2305.16317).

    >>> x, _ = Picard().step(lambda x, t: x, torch.ones(1, 1), torch.zeros(1), torch.ones(1), None)
    >>> float(x)
    2.0
    """

    window: int = 16  # steps solved together
    tolerance: float = 1e-4  # root mean square change of a state, in units of the state; the worst sample counts
    solver: Solver = EULER  # a one-step method with a fixed number of evaluations and no noise

    def __post_init__(self) -> None:
        _check_inner_solver(self, self.window, self.tolerance)
        require(
            complete(self.solver).traits.space is None,
            f"Picard was put around {type(self.solver).__name__}, which keeps states on a curved space; sums of steps "
            "leave it by the tolerance: use GaussSeidelJacobi(), which hands out the steps themselves",
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
    """Stretches one after another, inside each all steps repeated at once from their last predecessors.

    x_i+1 <- x_i + F(x_i, t_i -> t_i+1) for all i of the stretch at once, until the largest change is below tolerance;
    exact after as many rounds as the stretch has steps
    Assumes memory for stretch x batch states, and a field without memory of its own.
    Source: Liu and Qin 2025, "Accelerate TarFlow Sampling with GS-Jacobi Iteration" (arXiv 2505.12849).

    >>> x, _ = GaussSeidelJacobi().step(lambda x, t: x, torch.ones(1, 1), torch.zeros(1), torch.ones(1), None)
    >>> float(x)
    2.0
    """

    stretch: int = 8  # steps solved together before the next stretch begins
    tolerance: float = 1e-6  # root mean square change of a state, in units of the state; the worst sample counts
    solver: Solver = EULER  # a one-step method with a fixed number of evaluations and no noise

    def __post_init__(self) -> None:
        _check_inner_solver(self, self.stretch, self.tolerance)

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
    """The fixed point of a strictly causal map on [T,B,*S], and the rounds it took.

    Position i of ``sweep(x)`` depends on positions before i alone, so that T rounds are exact; fewer suffice when the
    largest change (root mean square per position and sample) falls below ``tolerance``.
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
    """A dynamics that counts how often it is asked."""

    def __init__(self, f: Dynamics):
        self.f, self.count = f, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.count += 1
        return self.f(x, t)


def _check_inner_solver(solver: ParallelInTime, length: int, tolerance: float) -> None:
    require(
        length >= 1 and tolerance > 0,
        f"{solver} got a length of {length} and a tolerance of {tolerance}; give at least one step and a tolerance "
        "above 0",
    )
    solver.check_inner(one_step=True)
    inner, name = complete(solver.solver).traits, type(solver.solver).__name__
    require(
        not inner.adaptive and not inner.stochastic,
        f"{type(solver).__name__} was put around {name}, which "
        f"{'adds noise' if inner.stochastic else 'has no fixed number of evaluations'}; many steps are solved in one "
        "batch, where it would do something else than step by step: use EULER, HEUN or another one-step method inside",
    )


def _current_state(memory: Any, x: Tensor) -> ParallelState:
    """The memory, with everything ahead forgotten if somebody corrected the state."""
    m = memory or ParallelState(None)
    return m if m.last is None or m.last is x else m._replace(ready=(), guess=None)


def _next_state(m: ParallelState) -> tuple[Tensor, ParallelState]:
    return m.ready[0], m._replace(ready=m.ready[1:], done=m.done + 1, last=m.ready[0])


def _initial_guess(guess: Tensor | None, x: Tensor, length: int) -> Tensor:
    """A guess for ``length`` states: what is known, then the last known state repeated."""
    known = x[None] if guess is None or len(guess) == 0 else guess[:length]
    return torch.cat([known, known[-1:].expand(length - len(known), *x.shape)])


def _batched_step(solver: Solver, f: Dynamics, states: Tensor, grid: Tensor) -> Tensor:
    """One step from every state [W,B,*S] over its own interval, in one batch of W B samples."""
    w, b = states.shape[:2]
    t, s = grid[:-1], grid[1:]
    if grid.ndim == 1:
        t, s = t[:, None].repeat(1, b), s[:, None].repeat(1, b)
    flat = solver.step(f, states.flatten(0, 1), t.flatten(0, 1), s.flatten(0, 1), None)[0]
    return flat.reshape(w, b, *states.shape[2:])


def _rms_change(new: Tensor, old: Tensor) -> Tensor:
    """[W] root mean square change of every state, of its worst sample; nothing that is not finite counts as still."""
    change = (new - old).detach().reshape(*new.shape[:2], -1).square().mean(2).amax(1).sqrt()
    return torch.where(change.isfinite(), change, torch.full_like(change, torch.inf))
