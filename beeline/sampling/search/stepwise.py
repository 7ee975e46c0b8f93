"""Search over the noise of single steps, by the energy of the datum that each candidate predicts."""

from __future__ import annotations

from dataclasses import field

import torch
from torch import Tensor

from beeline.core.protocols.steering import Energy
from beeline.core.ranges import NonNegative, Share, dataclass
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.sampling.sampler import Call
from beeline.sampling.search.candidates import (
    Steps,
    StochasticSearch,
    at,
    lowest,
    pairs,
    picked,
    tiled,
    transition,
)
from beeline.sampling.steering.controller import energies_of


@dataclass(frozen=True)
class GreedySearch(StochasticSearch):
    """Greedy search over the children of stochastic steps.

    x_s = argmin_k E(D(x_s^k, s)),  x_s^k = mean(x_t) + g sqrt(s - t) z_k;  D = E[x1 | x_s]
    The energy needs no gradient.  Takes n evaluations in every guided step but the last, which adds no noise.  Samples
    are no posterior: their energy is low, and so is their probability under the flow, which is to be reported.
    Assumes a Gaussian source, an independent coupling and the affine path of the flow.
    Source: Kim et al. 2025, "Inference-Time Scaling for Flow Models via Stochastic Generation and Rollover Budget
    Forcing" (arXiv 2503.19385), search over stochastic generation.

    >>> search = GreedySearch(4, energy=lambda x1, t, cond=None: x1.sum(1), candidates=4)
    >>> bool(search(Flow(lambda x, t: 0 * x), torch.zeros(1, 2)).sum() < 0)
    True
    """

    energy: Energy = field(kw_only=True)
    until: Share = 1.0  # time of the last guided step; later steps have one candidate

    def _search(self, flow: Flow, x0: Tensor, cond: Cond, call: Call) -> Tensor:
        run, x = self._steps(flow, x0, cond), x0
        v = run.one.drift(x, at(0.0, x))
        for i, t, s in pairs(run.times):
            if call.watch is not None:
                call.watch(x, at(t, x))
            n = self.candidates if self.compares(i) else 1
            mean, spread = transition(self.solver, x, v, at(t, x), at(s, x))
            z = self.normal(x, n, "step", i)
            if n > 1:
                x, v = self._next(run, mean, spread, z, s)
                continue
            x = mean + spread * z
            if i < self.steps - 1:
                x, v = run.one(x, at(s, x))
        x = run.one.correct(x, at(1.0, x))
        if call.watch is not None:
            call.watch(x, at(1.0, x))
        if call.done is not None:
            call.done(None)
        return x

    def compares(self, step: int) -> bool:
        """Whether a step has several candidates."""
        times = self.times()
        return step < self.steps - 1 and float(times[step]) < self.until

    def _next(self, run: Steps, mean: Tensor, spread: Tensor, z: Tensor, s: float) -> tuple[Tensor, Tensor]:
        """The state at ``s`` and its velocity, by the candidates with the noise ``z`` [n*B,*S]."""
        x = tiled(mean, self.candidates) + tiled(spread, self.candidates) * z
        t = at(s, x)
        x, v = run.many(x, t)
        energies = energies_of(self.energy, run.path.data(x, v, t), t, run.cond).unflatten(0, (-1, len(mean)))
        return self._choose(run, mean, spread, z, x, v, energies, s)

    def _choose(
        self, run: Steps, mean: Tensor, spread: Tensor, z: Tensor, x: Tensor, v: Tensor, energies: Tensor, s: float
    ) -> tuple[Tensor, Tensor]:
        """The state and its velocity for candidates ``x`` with velocities ``v`` and energies [n,B]."""
        best = lowest(energies)
        return picked(x, best), picked(v, best)

    def extra(self) -> int:
        """Evaluations of a step with several candidates beside those of the candidates."""
        return 0

    @property
    def evaluations(self) -> int | None:
        times = [round(float(t), 6) for t in self.times()]
        counts = [self.candidates + self.extra() if self.compares(i) else 1 for i in range(self.steps - 1)]
        inner = zip(counts, times[1:-1], strict=True)
        found = sum(n * (self.calls(t) + self.correction_calls(t)) for n, t in inner)
        return self.calls(times[0]) + found + self.correction_calls(times[-1])


@dataclass(frozen=True)
class PathIntegral(GreedySearch):
    """Path-integral control: the noise of a step is the mean of several, weighted by the energies they lead to.

    z = sum_k w_k z_k / |sum_k w_k z_k| sqrt(dim),  w = softmax(-E(D(x_s^k, s)) / temperature)
    The temperature zero is GreedySearch.  The energy needs no gradient.  Takes n + 1 evaluations in every guided step
    but the last, n at temperature zero.  The mean noise is normalised to the norm of noise, which is exact for many
    numbers only; samples are no posterior.
    Assumes a Gaussian source, an independent coupling and the affine path of the flow.
    Source: Kim et al. 2024, "Free2Guide" (arXiv 2411.17041), path-integral control without gradients.

    >>> search = PathIntegral(4, energy=lambda x1, t, cond=None: x1.sum(1), candidates=4)
    >>> bool(search(Flow(lambda x, t: 0 * x), torch.zeros(1, 2)).sum() < 0)
    True
    """

    temperature: NonNegative = 0.5  # in the units of the energy; 0 takes the best candidate
    until: Share = 0.5

    def _choose(
        self, run: Steps, mean: Tensor, spread: Tensor, z: Tensor, x: Tensor, v: Tensor, energies: Tensor, s: float
    ) -> tuple[Tensor, Tensor]:
        if self.temperature == 0:
            return super()._choose(run, mean, spread, z, x, v, energies, s)
        weights = (-energies / self.temperature).softmax(0)
        noise = torch.einsum("nb,nb...->b...", weights, z.unflatten(0, (-1, len(mean))))
        flat = noise.flatten(1)
        norm = flat.norm(dim=1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
        chosen = mean + spread * (flat / norm * flat.shape[1] ** 0.5).view_as(mean)
        return run.one(chosen, at(s, chosen))

    def extra(self) -> int:
        return int(self.temperature > 0)
