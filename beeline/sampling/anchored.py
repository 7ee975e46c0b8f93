"""Sampling that moves whole trajectories towards a low energy of their ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field, replace
from typing import Annotated, Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.modes import check_together, deferred, eval_mode
from beeline.core.protocols.steering import Energy
from beeline.core.ranges import Count, Positive, Range, dataclass
from beeline.core.types import Cond, Dynamics, expand_time, map_cond
from beeline.fields.flow import Flow
from beeline.sampling.guidance.guide import guidance_for_flow
from beeline.sampling.sampler import Call, Sampler, check_rows
from beeline.sampling.steering.controller import affine_path, energies_of
from beeline.sampling.steering.modalities import for_rows
from beeline.solvers.integrate import integrate
from beeline.solvers.process import process_of
from beeline.solvers.wrappers import complete


@dataclass(frozen=True)
class Anchored(Sampler):
    """A sampler that moves its trajectories towards a low energy of the datum, anchored to the unguided ones.

    x <- x + h_k u_k at the start of step k, of length h_k;  u_k <- u_k - rate min(1, 1 / |m_k|) m_k,
    m_k = grad energy(x1) + u_k / strength with the gradient in the state at the start of step k, through all steps.
    A fixed point on a straight flow is x1 = reference - strength grad energy(x1): the mode of the posterior with a
    Gaussian of variance ``strength`` around the unguided datum.  Without an anchor (strength inf) it is a minimum of
    the energy.  The energy is taken at data only, so that any differentiable classifier of clean data will do.
    Biased: it gives a mode for every source point, and no posterior samples.
    Assumes an affine path and few steps of a flow with straight trajectories, as after reflow: all steps are kept in
    memory.  One run takes ``iterations`` + 1 samplings.
    Source: Sun et al. 2024, "RectifID: Personalizing Rectified Flow with Anchored Classifier Guidance"
    (arXiv 2405.14677).

    >>> from beeline.sampling.steering.energies.squared import Near
    >>> flow = Flow(lambda x, t: 1 + 0 * x)
    >>> Anchored(1, energy=Near((3.0,)), strength=1.0, rate=0.5)(flow, torch.zeros(1, 1))
    tensor([[2.]])
    """

    energy: Energy = field(kw_only=True)
    strength: Annotated[float, Range(above=0, inf=True)] = math.inf  # inf has no anchor
    rate: Positive = 1.0  # step size; below 2 / (curvature of the energy + 1 / strength)
    iterations: Count = 50

    def for_rows(self, start: int, end: int) -> Anchored:
        made = super().for_rows(start, end)
        return replace(self, solver=made.solver, guidance=made.guidance, energy=for_rows(self.energy, start, end))

    def _sample(self, flow: Flow, x0: Tensor, cond: Cond, call: Call) -> Tensor:
        require(
            call.start < call.end and not call.augmented,
            f"Anchored got start={call.start}, end={call.end}, augmented={call.augmented}; it moves "
            "data towards a low energy: use a Sampler for inversion",
        )
        require(
            not self.controllers,
            f"Anchored got {len(self.controllers)} controllers; it differentiates through whole runs: give the energy "
            "to Anchored, or the controllers to a Sampler",
        )
        affine_path(flow, "Anchored")
        times, process = self.times(call.start, call.end), process_of(flow)
        solver = complete(process.adapt_solver(self.solver))
        process.check(flow, solver, times)
        require(
            not solver.traits.augmented_state,
            f"Anchored got {type(self.solver).__name__}, which has an augmented state; a change of the velocity moves "
            "one copy of it only: use another solver, such as HEUN",
        )
        check_rows(cond, x0)
        check_together("the state", x0, flow, self.guidance, self.energy)
        cond = map_cond(lambda leaf: leaf.to(x0.device), cond)

        def run(moves: Tensor, **more: Any) -> Tensor:
            f: Dynamics = guidance_for_flow(self.guidance, flow, times)(flow.field, cond)
            rest = iter((*(moves[1:] * expand_time(times.diff()[1:].to(moves), moves[1:])), 0))
            first = x0 + moves[0] * float(times[1] - times[0])
            return integrate(f, first, times, solver, after=lambda x, t: x + next(rest), **more)

        moves = x0.new_zeros(self.steps, *x0.shape)
        with eval_mode(flow, self.guidance, self.energy, grad=True), deferred():
            for _ in range(self.iterations):
                moves = self._improved(moves, run, times, cond)
            with torch.no_grad():
                return run(moves, watch=call.watch, done=call.done)

    def _improved(self, moves: Tensor, run: Callable[[Tensor], Tensor], times: Tensor, cond: Cond) -> Tensor:
        """The changes [steps,B,*S] of the velocity after one iteration."""
        with torch.enable_grad():
            leaf = moves.requires_grad_()
            x1 = run(leaf)
            value = energies_of(self.energy, x1, times[-1].to(x1).expand(len(x1)), cond)
            require(
                value.requires_grad,
                "the energy returned a tensor without gradient; Anchored follows its gradient: compute it from x1 with "
                "differentiable operations and without detach()",
            )
            (slope,) = torch.autograd.grad(value.sum(), leaf)
        move = slope / expand_time(times.diff().to(slope), slope) + moves.detach() / self.strength
        norms = move.flatten(2).norm(dim=2).clamp(min=1)
        return moves.detach() - self.rate * move / expand_time(norms, move)

    @property
    def evaluations(self) -> int | None:
        once = super().evaluations
        return None if once is None else once * (self.iterations + 1)
