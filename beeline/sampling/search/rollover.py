"""Search with a budget of evaluations that moves from step to step."""

from __future__ import annotations

from dataclasses import field

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.steering import Energy
from beeline.core.ranges import Count, dataclass
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.sampling.sampler import Call
from beeline.sampling.search.candidates import (
    StochasticSearch,
    at,
    lowest,
    picked,
    transition,
)
from beeline.sampling.steering.controller import energies_of


@dataclass(frozen=True)
class RolloverBudget(StochasticSearch):
    """Rollover budget forcing: a step ends as soon as a child improves, and leaves its unused evaluations to the next.

    quota = (budget - n) // steps for each step;  child = mean(x_t) + g sqrt(s - t) z, one at a time;
    E(D(child)) < best so far: continue from it, quota of the next step += unused;  quota used: from the best child
    The first of n initial states is that with the lowest energy.  The last step with noise takes the rest of the
    budget, and the result is the datum that its best child predicts.  Every sample takes ``budget`` evaluations of the
    guided field, neither more nor fewer.  The energy needs no gradient; that of early predictions, which are blurred,
    can mislead.
    Assumes a Gaussian source, an independent coupling and the affine path of the flow.  The paper takes a
    variance-preserving path, to which ``Converted`` brings a field.
    Source: Kim et al. 2025 (arXiv 2503.19385).

    >>> search = RolloverBudget(4, energy=lambda x1, t, cond=None: x1.sum(1), budget=20, candidates=4)
    >>> search.evaluations
    20
    """

    energy: Energy = field(kw_only=True)
    budget: Count = 100  # evaluations of the guided field for every sample

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.steps >= 2 and self.budget >= self.candidates + self.steps,
            f"RolloverBudget got a budget of {self.budget} for {self.candidates} initial states and {self.steps} "
            "steps; every step needs an evaluation, and the last adds no noise: set steps of at least 2 and a budget "
            "of at least candidates + steps",
        )

    def _search(self, flow: Flow, x0: Tensor, cond: Cond, call: Call) -> Tensor:
        run = self._steps(flow, x0, cond)
        grid, final = torch.tensor(run.times, dtype=x0.dtype).to(x0.device), self.steps - 2
        first = self.starts(flow, x0)
        velocity = run.many.drift(first, at(0.0, first))
        data = run.path.data(first, velocity, at(0.0, first))
        energies = energies_of(self.energy, data, at(0.0, first), run.cond).unflatten(0, (-1, len(x0)))
        index = lowest(energies)
        x, v, best = picked(first, index), picked(velocity, index), picked(energies.flatten(), index)
        share = (self.budget - self.candidates) // self.steps
        step = torch.zeros(len(x0), dtype=torch.long, device=x0.device)
        quota, used = torch.full_like(step, share), torch.zeros_like(step)
        child, child_v, lead = x, v, torch.full_like(best, torch.inf)
        for number in range(self.budget - self.candidates):
            t, s = grid[step], grid[step + 1]
            if call.watch is not None:
                call.watch(x, t)
            mean, spread = transition(self.solver, x, v, t, s)
            y = mean + spread * self.normal(x, 1, "child", number)
            y, w = run.one(y, s)
            energy = energies_of(self.energy, run.path.data(y, w, s), s, cond)
            child, child_v = _where(energy < lead, y, child), _where(energy < lead, w, child_v)
            lead, used, stays = torch.minimum(energy, lead), used + 1, step >= final
            better = (energy < best) & ~stays
            ahead = better | ((used >= quota) & ~stays)
            best = torch.where(better, energy, best)
            quota = torch.where(better, share + quota - used, torch.where(ahead, torch.full_like(quota, share), quota))
            x, v = _where(ahead, child, x), _where(ahead, child_v, v)
            step, used = step + ahead, torch.where(ahead, 0, used)
            lead = torch.where(ahead, torch.inf, lead)
        made = run.path.data(child, child_v, grid[step + 1])
        made = run.one.correct(made, torch.ones_like(best))
        if call.watch is not None:
            call.watch(made, torch.ones_like(best))
        if call.done is not None:
            call.done(None)
        return made

    @property
    def evaluations(self) -> int | None:
        """Evaluations of ``budget`` drifts and of corrections; None if they depend on the time of a sample's step."""
        first, *inner, last = [round(float(t), 6) for t in self.times()]
        each = {self.calls(t) + self.correction_calls(t) for t in inner}
        if len(each) > 1:
            return None
        rest = (self.budget - self.candidates) * each.pop()
        return self.candidates * self.calls(first) + rest + self.correction_calls(last)


def _where(chosen: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Rows of ``a`` [B,*S] where ``chosen`` [B], else of ``b``."""
    return torch.where(chosen.view(-1, *([1] * (a.ndim - 1))), a, b)
