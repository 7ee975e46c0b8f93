"""The sampler: how to draw, as one value that can be saved, compared and sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.modes import check_together, eval_mode
from beeline.core.protocols.flows import Controller, FullSolver, Guidance, Schedule, Solver
from beeline.core.ranges import dataclass
from beeline.core.types import Cond, leaves, map_cond
from beeline.fields.flow import Flow
from beeline.sampling.guidance.guide import Plain, guidance_for_flow
from beeline.solvers.integrate import integrate
from beeline.solvers.process import Process, process_of, require_ode
from beeline.solvers.runge_kutta import HEUN
from beeline.solvers.wrappers import complete
from beeline.times.schedules import Uniform

MOST_STEPS = 1_000_000  # more are a mistake, and their times would fill the memory


@dataclass(frozen=True)
class Sampler:
    """Steps, schedule, solver, guidance and controllers: everything about drawing but the flow and the noise.

    x1 = integrate(controllers(guidance(field, cond)), x0, schedule(steps), solver)
    The process of the flow (core/process.py) may take another loop than ``integrate``, project the solver onto a curved
    space, and end at a symbol; its ``check`` refuses solvers that do not fit before any work.
    Assumes that x0 is on the device of the flow; conditions are moved there.  Networks are in evaluation mode while it
    runs.  No graph is kept; to differentiate through sampling, call ``integrate``.
    Source: none; a value that names its parts.

    >>> Sampler(steps=4).evaluations
    8
    """

    steps: int = 20
    schedule: Schedule = field(default_factory=Uniform)
    solver: Solver = HEUN
    guidance: Guidance = field(default_factory=Plain)
    controllers: tuple[Controller, ...] = ()

    def __post_init__(self) -> None:
        require(
            isinstance(self.steps, int) and 1 <= self.steps <= MOST_STEPS,
            f"Sampler got steps={self.steps!r}; it counts steps: give a whole number from 1 to {MOST_STEPS:,}",
        )

    def times(self, start: float = 0.0, end: float = 1.0) -> Tensor:
        """The [steps+1] times walked from ``start`` to ``end``."""
        return self.schedule(self.steps, start, end)

    def seeded(self, seeds: Sequence[int], *names: int | str | float) -> Sampler:
        """The same sampler with a seed of its own for every sample's noise, so that none depends on its batch.

        Solvers without noise need none.  ``names`` tell apart runs with the same seeds.
        """
        return replace(self, solver=complete(self.solver).with_seeds(seeds, *names))

    def for_rows(self, start: int, end: int) -> Sampler:
        """The sampler of the rows start .. end-1 of a batch: their seeds, or else noise of their own."""
        return replace(self, solver=complete(self.solver).for_rows(start, end))

    def __call__(
        self,
        flow: Flow,
        x0: Tensor,
        cond: Cond = None,
        *,
        watch: Callable[[Tensor, Tensor], None] | None = None,
        done: Callable[[Any], None] | None = None,
        augmented: bool = False,
    ) -> Tensor:
        """Draw: from source points x0 [B,*S] to data [B,*S].

        ``watch(x, t)`` sees every state, ``done(memory)`` the solver's memory at the end.  With ``augmented`` the state
        is the solver's own, in and out: the copies of a Reversible solver, without which a round trip is not exact.
        """
        return self._walk(flow, x0, cond, self.times(), watch, done, augmented)

    def invert(
        self,
        flow: Flow,
        x1: Tensor,
        cond: Cond = None,
        *,
        watch: Callable[[Tensor, Tensor], None] | None = None,
        done: Callable[[Any], None] | None = None,
        augmented: bool = False,
    ) -> Tensor:
        """The same walk backwards: from data x1 [B,*S] to the source points that make them.

        With ``augmented`` the state is the solver's own, in and out: begin with ``solver.lift(x1)``.
        """
        require_ode(flow, "an inverse")
        return self._walk(flow, x1, cond, self.times(1.0, 0.0), watch, done, augmented)

    def _walk(
        self,
        flow: Flow,
        x: Tensor,
        cond: Cond,
        times: Tensor,
        watch: Callable[[Tensor, Tensor], None] | None,
        done: Callable[[Any], None] | None,
        augmented: bool,
    ) -> Tensor:
        process = process_of(flow)
        solver = complete(process.adapt_solver(self.solver))
        process.check(flow, solver, times)
        parts = (flow, self.guidance, self.controllers)
        check_together("the state", x, *parts)
        cond = map_cond(lambda leaf: leaf.to(x.device), cond)
        with eval_mode(*parts):
            return self._run(flow, process, solver, x, cond, times, watch, done, augmented)

    def _run(
        self,
        flow: Flow,
        process: Process,
        solver: FullSolver,
        x: Tensor,
        cond: Cond,
        times: Tensor,
        watch: Callable[[Tensor, Tensor], None] | None,
        done: Callable[[Any], None] | None,
        augmented: bool,
    ) -> Tensor:
        for name, leaf in leaves(cond):
            require(
                leaf.ndim > 0 and len(leaf) == len(x),
                f"the condition {name or 'given'} has shape {tuple(leaf.shape)} for a batch of {len(x)}; "
                "every leaf of a condition starts with the batch size",
            )
        f = guidance_for_flow(self.guidance, flow)(process.field_for_run(flow.field, x, times), cond)
        for controller in self.controllers:
            f = controller.steer(f, flow)

        def correct(x: Tensor, t: Tensor) -> Tensor:
            for controller in self.controllers:
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
        state = x if augmented else solver.lift(x)
        state = process.run(f, state, times, solver, after=after, watch=watch, done=done)
        if augmented and solver.traits.augmented_state:
            return state
        made = solver.lower(state)
        return (
            process.finish(flow.field, lambda field: guidance_for_flow(self.guidance, flow)(field, cond), made)
            if times[-1] == 1
            else made
        )

    @property
    def evaluations(self) -> int | None:
        """Field evaluations per sample, counted by a walk over a zero field; None where they depend on the field."""
        solver = complete(complete(self.solver).with_seeds(()))  # seeds are for a batch of their number
        if solver.traits.adaptive:
            return None
        count = 0

        def f(x: Tensor, t: Tensor, s: Any = None) -> Tensor:
            nonlocal count
            count += self.guidance.calls(round(float(t[0]), 6))  # float32 0.6 is not 0.6
            return torch.zeros_like(x)

        integrate(f, solver.lift(torch.zeros(1, 1)), self.times(), solver)
        return count
