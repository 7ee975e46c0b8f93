"""The sampler: the settings of sampling as one value that can be saved and compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from beeline.core.declared import as_map
from beeline.core.errors import require
from beeline.core.modes import check_together, deferred, eval_mode
from beeline.core.protocols.flows import FullSolver, Guidance, Schedule, Solver
from beeline.core.protocols.steering import Controller, Run
from beeline.core.ranges import dataclass
from beeline.core.types import Cond, Dynamics, leaves, map_cond
from beeline.fields.flow import Flow
from beeline.sampling.guidance.dependence import for_rows, with_seeds
from beeline.sampling.guidance.guide import Plain, guidance_for_flow
from beeline.sampling.steering.controller import complete_controller
from beeline.solvers.integrate import integrate
from beeline.solvers.process import Process, process_of, require_ode
from beeline.solvers.runge_kutta import HEUN
from beeline.solvers.wrappers import complete
from beeline.times.schedules import Uniform

MOST_STEPS = 1_000_000  # more are a mistake, and their times would fill the memory


class Call(NamedTuple):
    """The options of a call of a sampler."""

    start: float = 0.0
    end: float = 1.0
    watch: Callable[[Tensor, Tensor], None] | None = None
    done: Callable[[Any], None] | None = None
    augmented: bool = False

    def check_whole(self, whose: str, why: str) -> None:
        """Raise ValueError for another interval than [0, 1]."""
        require(
            (self.start, self.end, self.augmented) == (0.0, 1.0, False),
            f"{whose} got start={self.start}, end={self.end}, augmented={self.augmented}; {why} in a run from noise to "
            "data: use a Sampler for a part of a run, and for inversion",
        )


@dataclass(frozen=True)
class Sampler:
    """Steps, schedule, solver, guidance and controllers of sampling.

    x1 = integrate(controllers(guidance(field, cond)), x0, schedule(steps), solver)
    The process of the flow (solvers/process.py) adapts the solver to the state space and raises ValueError for one that
    does not fit.  Networks are in evaluation mode during a call, and no graph is recorded; to differentiate through
    sampling, call ``integrate``.
    Assumes x0 on the device of the flow; conditions are moved there.

    >>> Sampler(steps=4).evaluations
    8
    """

    steps: int = 20  # at least 1
    schedule: Schedule = field(default_factory=Uniform)  # times of the steps
    solver: Solver = HEUN
    guidance: Guidance = field(default_factory=Plain)
    controllers: tuple[Controller, ...] = ()  # applied in this order

    def __post_init__(self) -> None:
        require(
            isinstance(self.steps, int) and 1 <= self.steps <= MOST_STEPS,
            f"Sampler got steps={self.steps!r}; the number of steps is an integer from 1 to {MOST_STEPS:,}: set "
            "one, 20 is usual",
        )

    def times(self, start: float = 0.0, end: float = 1.0) -> Tensor:
        """The times [steps+1] from ``start`` to ``end``."""
        return self.schedule(self.steps, start, end)

    def seeded(self, seeds: Sequence[int], *names: int | str | float) -> Sampler:
        """The sampler with one noise seed per sample, so that samples do not depend on their batch.

        A solver, guidance or controller without noise is unchanged.  ``names`` distinguish runs with the same seeds.
        """
        steering = tuple(complete_controller(c).with_seeds(seeds, *names) for c in self.controllers)
        solver, guidance = complete(self.solver).with_seeds(seeds, *names), with_seeds(self.guidance, seeds, *names)
        return replace(self, solver=solver, guidance=guidance, controllers=steering)

    def for_rows(self, start: int, end: int) -> Sampler:
        """The sampler for rows start .. end-1 of a batch: with their seeds, or without seeds with a key of its own."""
        steering = tuple(complete_controller(c).for_rows(start, end) for c in self.controllers)
        solver, guidance = complete(self.solver).for_rows(start, end), for_rows(self.guidance, start, end)
        return replace(self, solver=solver, guidance=guidance, controllers=steering)

    def __call__(
        self,
        flow: Flow,
        x0: Tensor,
        cond: Cond = None,
        *,
        start: float = 0.0,
        end: float = 1.0,
        watch: Callable[[Tensor, Tensor], None] | None = None,
        done: Callable[[Any], None] | None = None,
        augmented: bool = False,
    ) -> Tensor:
        """Integrate the flow from states ``x0`` [B,*S] at time ``start`` to states [B,*S] at time ``end``.

        The defaults map source points to data; other times in [0, 1] give a part of the trajectory, in either
        direction.  ``cond`` is a condition tree whose leaves start with B.  ``watch(x, t)`` is called with the initial
        state and the state after each step, ``done(memory)`` with the solver's memory at the end.  With ``augmented``
        the input and the result are the solver's integrated state, as an exact round trip of Reversible needs.

        Raises ValueError for a solver that does not fit the flow, and IntegrationError for a non-finite state.
        """
        return self._sample(flow, x0, cond, Call(start, end, watch, done, augmented))

    def _sample(self, flow: Flow, x0: Tensor, cond: Cond, call: Call) -> Tensor:
        """What a call returns; samplers that do more than one integration replace it."""
        if call.end < call.start:
            require_ode(flow, "integration towards the source")
        return self._solve(flow, x0, cond, self.times(call.start, call.end), call)

    def invert(
        self,
        flow: Flow,
        x1: Tensor,
        cond: Cond = None,
        *,
        start: float = 1.0,
        end: float = 0.0,
        watch: Callable[[Tensor, Tensor], None] | None = None,
        done: Callable[[Any], None] | None = None,
        augmented: bool = False,
    ) -> Tensor:
        """Integrate the flow backwards, from data ``x1`` [B,*S] to their source points [B,*S].

        The same as a call with ``start=1.0, end=0.0``.  With ``augmented``, pass ``solver.lift(x1)``.
        """
        require(
            end < start,
            f"Sampler.invert got start={start}, end={end}; inversion runs towards the source: set end below start, or "
            "call the sampler to integrate towards the data",
        )
        return self(flow, x1, cond, start=start, end=end, watch=watch, done=done, augmented=augmented)

    def _solve(self, flow: Flow, x: Tensor, cond: Cond, times: Tensor, call: Call) -> Tensor:
        process = process_of(flow)
        solver = complete(process.adapt_solver(self.solver))
        process.check(flow, solver, times)
        if flow.trained is not None:
            count = count_evaluations(solver, Plain(), times) if flow.trained.fixed else None
            flow.trained.check(times, count, not isinstance(self.guidance, Plain))
        parts = (flow, self.guidance, self.controllers)
        check_together("the state", x, *parts)
        cond = map_cond(lambda leaf: leaf.to(x.device), cond)
        with eval_mode(*parts), deferred():
            return self._run(flow, process, solver, x, cond, times, call)

    def _run(
        self,
        flow: Flow,
        process: Process,
        solver: FullSolver,
        x: Tensor,
        cond: Cond,
        times: Tensor,
        call: Call,
    ) -> Tensor:
        f, steering = self._steered(flow, process, x, cond, times)

        def correct(x: Tensor, t: Tensor) -> Tensor:
            for controller in steering:
                x = controller.correct(x, t)
            return x

        after = correct if self.controllers else None
        require(
            not (solver.traits.augmented_state and process.resizes),
            f"Sampler got {type(self.solver).__name__}, which has an augmented state, for a flow on "
            f"{type(flow.path).__name__}, whose states change their resolution; the copies cannot be resized: use HEUN",
        )
        require(
            not (solver.traits.augmented_state and self.controllers),
            f"Sampler got controllers and {type(self.solver).__name__}, which has an augmented state; a controller "
            "changes one copy of it only: use another solver, such as HEUN",
        )
        state = x if call.augmented else solver.lift(x)
        state = process.run(f, state, times, solver, after=after, watch=call.watch, done=call.done)
        if call.augmented and solver.traits.augmented_state:
            return state
        result = solver.lower(state)
        if times[-1] != 1:
            return result
        guidance = guidance_for_flow(self.guidance, flow, times)
        return process.finish(flow.field, lambda field: guidance(field, cond), result)

    def _steered(
        self, flow: Flow, process: Process, x: Tensor, cond: Cond, times: Tensor
    ) -> tuple[Dynamics, list[Controller]]:
        """The guided and steered drift of one run from ``x`` [B,*S], and its controllers."""
        check_rows(cond, x)
        guidance = guidance_for_flow(self.guidance, flow, times)
        f = guidance(process.field_for_run(flow.field, x, times), cond)
        steering = [complete_controller(c).for_run(Run(flow, cond, times)) for c in self.controllers]
        for controller in steering:
            f = controller.steer(f, flow)
        return f, steering

    def drift(self, flow: Flow, x: Tensor, cond: Cond, times: Tensor) -> Dynamics:
        """The guided and steered drift of one run over ``times`` from states ``x`` [B,*S], for dynamics made of it.

        Call it inside ``eval_mode``; conditions are moved to the device of ``x``.
        """
        return self._steered(flow, process_of(flow), x, map_cond(lambda leaf: leaf.to(x.device), cond), times)[0]

    @property
    def evaluations(self) -> int | None:
        """Number of field evaluations per sample from t = 0 to 1, or None if it depends on the field."""
        return count_evaluations(self.solver, self.guidance, self.times(), self.controllers)


def check_rows(cond: Cond, x: Tensor) -> None:
    """Raise ValueError for a condition without one row for every state of ``x`` [B,*S]."""
    for name, leaf in leaves(cond):
        require(
            leaf.ndim > 0 and len(leaf) == len(x),
            f"the condition{f' {name!r}' if name else ''} has shape {tuple(leaf.shape)} for a batch of {len(x)}; "
            "the first dimension of every leaf is the batch: pass one row per sample",
        )


def count_evaluations(
    solver: Solver, guidance: Guidance, times: Tensor, controllers: Sequence[Controller] = ()
) -> int | None:
    """Number of field evaluations per sample over ``times``, or None if it depends on the field."""
    steering = [complete_controller(controller) for controller in controllers]
    whole = complete(complete(solver).with_seeds(()))  # seeds fit a batch of their number only
    if whole.traits.adaptive:
        return None
    count = 0

    def f(x: Tensor, t: Tensor, s: Any = None) -> Tensor:
        nonlocal count
        time = round(float(t[0]), 6)  # float32 0.6 is not 0.6
        count += guidance.calls(time) * math.prod(controller.calls(time) for controller in steering)
        return torch.zeros_like(x)

    def after(x: Tensor, t: Tensor) -> Tensor:
        nonlocal count
        time = round(float(t[0]), 6)
        inner = guidance.calls(time)
        for controller in steering:  # a correction evaluates the drift as the earlier ones and itself steer it
            inner *= controller.calls(time)
            count += controller.correction_calls(time) * inner
        return x

    integrate(as_map(f), whole.lift(torch.zeros(1, 1)), times, whole, after=after)
    return count
