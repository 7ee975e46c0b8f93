"""The sampler: how to draw, as one value that can be saved, compared and sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from beeline.core.field import Flow
from beeline.core.integrate import integrate
from beeline.core.modes import check_together, eval_mode
from beeline.core.schedule import Schedule, Uniform
from beeline.core.solver import HEUN, Solver
from beeline.core.types import Cond, Dynamics, leaves, map_cond, require
from beeline.use.guidance import Guidance, Plain


class Controller(Protocol):
    """Steers a run: ``steer`` changes the drift, ``correct`` the state after a step."""

    def steer(self, f: Dynamics, flow: Flow) -> Dynamics: ...

    def correct(self, x: Tensor, t: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Sampler:
    """Steps, schedule, solver, guidance and controllers: everything about drawing but the flow and the noise.

    x1 = integrate(controllers(guidance(field, cond)), x0, schedule(steps), solver)
    A path with ``walk`` is walked by it instead of ``integrate``; a field with ``begin(x0, times, solver)`` is replaced
    by what that gives, and one with ``end(x, cond)`` has the last word at t = 1.
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
            isinstance(self.steps, int) and self.steps >= 1,
            f"Sampler got steps={self.steps!r}; sampling needs at least one step: give a whole number from 1",
        )

    def times(self, start: float = 0.0, end: float = 1.0) -> Tensor:
        """The [steps+1] times walked from ``start`` to ``end``."""
        return self.schedule(self.steps, start, end)

    def seeded(self, seeds: Sequence[int], *names: int | str | float) -> Sampler:
        """The same sampler with a seed of its own for every sample's noise, so that none depends on its batch.

        Solvers without noise need none.  ``names`` tell apart runs with the same seeds.
        """
        noise: Any = getattr(self.solver, "noise", None)
        if not hasattr(noise, "seeds"):
            return self
        rows: Any = replace(noise, rng=noise.rng.fork(*names), seeds=tuple(int(s) for s in seeds))
        solver: Any = self.solver
        return replace(self, solver=replace(solver, noise=rows))

    def part(self, start: int, end: int) -> Sampler:
        """The sampler of the rows start .. end-1 of a batch: their seeds, or else noise of their own."""
        noise: Any = getattr(self.solver, "noise", None)
        if not hasattr(noise, "seeds"):
            return self
        rows = {"seeds": noise.seeds[start:end]} if noise.seeds else {"rng": noise.rng.fork("rows", start)}
        solver: Any = self.solver
        return replace(self, solver=replace(solver, noise=replace(noise, **rows)))

    def __call__(
        self,
        flow: Flow,
        x0: Tensor,
        cond: Cond = None,
        *,
        watch: Callable[[Tensor, Tensor], None] | None = None,
        done: Callable[[Any], None] | None = None,
        whole: bool = False,
    ) -> Tensor:
        """Draw: from source points x0 [B,*S] to data [B,*S].

        ``watch(x, t)`` sees every state, ``done(memory)`` the solver's memory at the end.  With ``whole`` the state is
        the solver's own, in and out: the twins of a Reversible solver, without which its round trip is not exact.
        """
        return self._walk(flow, x0, cond, self.times(), watch, done, whole)

    def invert(
        self,
        flow: Flow,
        x1: Tensor,
        cond: Cond = None,
        *,
        watch: Callable[[Tensor, Tensor], None] | None = None,
        done: Callable[[Any], None] | None = None,
        whole: bool = False,
    ) -> Tensor:
        """The same walk backwards: from data x1 [B,*S] to the source points that make them.

        With ``whole`` the state is the solver's own, in and out: begin with ``solver.lift(x1)``.
        """
        flow.require_ode("an inverse")
        return self._walk(flow, x1, cond, self.times(1.0, 0.0), watch, done, whole)

    def _walk(
        self,
        flow: Flow,
        x: Tensor,
        cond: Cond,
        times: Tensor,
        watch: Callable[[Tensor, Tensor], None] | None,
        done: Callable[[Any], None] | None,
        whole: bool,
    ) -> Tensor:
        self._suits(flow)
        parts = (flow, self.guidance, self.controllers)
        check_together("the state", x, *parts)
        cond = map_cond(lambda leaf: leaf.to(x.device), cond)
        with eval_mode(*parts):
            return self._run(flow, x, cond, times, watch, done, whole)

    def _run(
        self,
        flow: Flow,
        x: Tensor,
        cond: Cond,
        times: Tensor,
        watch: Callable[[Tensor, Tensor], None] | None,
        done: Callable[[Any], None] | None,
        whole: bool,
    ) -> Tensor:
        for name, leaf in leaves(cond):
            require(
                leaf.ndim > 0 and len(leaf) == len(x),
                f"the condition {name or 'given'} has shape {tuple(leaf.shape)} for a batch of {len(x)}; "
                "every leaf of a condition starts with the batch size",
            )
        field, walk = flow.field, getattr(flow.path, "walk", integrate)  # a path may have a walk of its own
        if hasattr(field, "begin"):  # a field with noise of its own takes it from where the walk starts
            field = field.begin(x, times, self.solver)
        f = self.guidance(field, cond)
        for controller in self.controllers:
            f = controller.steer(f, flow)

        def correct(x: Tensor, t: Tensor) -> Tensor:
            for controller in self.controllers:
                x = controller.correct(x, t)
            return x

        after = correct if self.controllers else None
        lift = None if whole else getattr(self.solver, "lift", None)
        if lift is None:
            made: Tensor = walk(f, x, times, self.solver, after=after, watch=watch, done=done)
            return flow.field.end(made, cond) if hasattr(flow.field, "end") and float(times[-1]) == 1 else made
        require(
            walk is integrate,
            f"{type(self.solver).__name__}, whose state carries a twin, was given for a flow on "
            f"{type(flow.path).__name__}, whose states change their size on the way; take HEUN",
        )
        require(
            after is None,
            f"controllers were given beside {type(self.solver).__name__}, whose state carries a twin that they would "
            "part from it; use another solver for controlled runs",
        )
        solver: Any = self.solver
        return solver.lower(integrate(f, lift(x), times, solver, watch=watch, done=done))

    def _suits(self, flow: Flow) -> None:
        """Refuse a solver that assumes what the flow does not have."""
        if getattr(self.solver, "score", False):
            flow.require_score()
        solver_of: Any = getattr(flow.path, "solver", None)
        own = None if solver_of is None else solver_of()
        require(
            own is None or type(self.solver) is type(own),
            f"{type(self.solver).__name__} was given for a flow on {flow.path}, whose states it would leave; it is "
            f"drawn by jumps: take {type(own).__name__}(path={flow.path})",
        )
        path = getattr(self.solver, "path", None)
        require(
            path is None or path == flow.path,
            f"{type(self.solver).__name__} was given for {path}, but the flow was learned on {flow.path}; its formula "
            "needs the flow's own path: give it with path=",
        )

    @property
    def evaluations(self) -> int | None:
        """Field evaluations per sample, counted by a walk over a zero field; None where they depend on the field."""
        if getattr(self.solver, "adaptive", False):
            return None
        count = 0

        def f(x: Tensor, t: Tensor, s: Any = None) -> Tensor:
            nonlocal count
            count += self.guidance.calls(round(float(t[0]), 6))  # float32 0.6 is not 0.6
            return torch.zeros_like(x)

        state = torch.zeros(1, 1)
        lift = getattr(self.solver, "lift", None)
        integrate(f, state if lift is None else lift(state), self.times(), self.solver)
        return count
