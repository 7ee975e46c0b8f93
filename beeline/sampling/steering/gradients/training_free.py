"""Guidance by an energy without training, in one form with five parameters."""

from __future__ import annotations

import math
from dataclasses import field, replace
from typing import Annotated

import torch
from torch import Tensor

from beeline.core.protocols.steering import Controller, Energy, Run
from beeline.core.ranges import Count, NonNegative, Range, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, Dynamics, expand_time
from beeline.fields.flow import Flow
from beeline.sampling.guidance.dependence import RunSteps
from beeline.sampling.guidance.rules.scales import ScaleShape
from beeline.sampling.steering.controller import ControllerBase, OfRun, affine_path, descent
from beeline.sampling.steering.energies.combined import Smoothed
from beeline.sampling.steering.gradients.estimates import Estimate, OneStep
from beeline.sampling.steering.gradients.placements import NoiseKept, Placement, Step
from beeline.sampling.steering.modalities import for_rows


@dataclass(frozen=True)
class TFG(ControllerBase):
    """Training-free guidance: gradients of an energy through the network, and at the predicted datum.

    F(D) = -log mean_j exp(-energy(D + gamma (1 - t) z_j)),  z_j ~ N(0, I)
    v' = v - rho r(t) grad_x F(D(x, t)) - mu m(t) change sum_i grad F(D_i),  D_0 = D,
    D_(i+1) = D_i - mu m(t) unit grad F(D_i);  change and unit are those of ``kept``
    Sizes are per unit of time: a step of length h moves the state by h rho, as published methods do with rho / steps,
    so that the number of steps matters little.  The fifth parameter, the number of repeats of a step, is that of the
    solver TimeTravel.  With ``rho=0`` the network is not differentiated.  Settings give published methods:
    DPS mu=0;  LGD mu=0, gamma > 0;  FreeDoM mu=0 and TimeTravel;  MPGD rho=0, iterations=1;  FlowChef rho=0 and
    ``kept=VelocityKept()``;  universal guidance: EnergyGuidance without damping, then rho=0 and ``kept=StateKept()``.
    Biased: the energy of the mean datum is not the mean energy.  On a Gaussian with a quadratic energy the samples are
    Gaussian; at sizes that lead their mean to that of the posterior, their variance is too small.
    Assumes an affine path, and a solver whose steps are those of the run.
    Source: Ye et al. 2024, "TFG: Unified Training-Free Guidance for Diffusion Models" (arXiv 2409.15761).

    >>> pull = TFG(lambda x1, t, cond=None: x1.square().sum(1) / 2, rho=1.0, mu=0.0)
    >>> f = pull.steer(lambda x, t: 0 * x, Flow(lambda x, t, cond=None: 0 * x))
    >>> f(torch.ones(1, 1), torch.full((1,), 0.5))
    tensor([[-1.]])
    """

    energy: Energy
    rho: NonNegative = 0.25  # size of the gradient through the network, in units of 1 / energy
    mu: NonNegative = 0.25  # size of the gradient at the datum
    iterations: Count = 4  # gradient steps at the datum
    gamma: NonNegative = 0.0  # deviation of the smoothing at t = 0, in the units of the data
    samples: Count = 4  # of the smoothing
    rho_shape: ScaleShape | None = None  # r, of mean 1 over time; None is constant, Rising() that of the paper
    mu_shape: ScaleShape | None = None  # m, likewise
    kept: Placement = field(default_factory=NoiseKept)  # what stays where the datum moves
    estimate: Estimate = field(default_factory=OneStep)  # the datum of the gradient through the network
    clip: Annotated[float, Range(above=0, inf=True)] = math.inf  # largest norm of a gradient of one sample
    rng: Rng = Rng(0)  # of the smoothing

    def for_run(self, run: Run) -> Controller:
        steps = RunSteps(run.times, "TFG")
        return OfRun(lambda f, flow: self.dynamics(f, flow, run.cond, steps))

    def steer(self, f: Dynamics, flow: Flow) -> Dynamics:
        """The steered drift without a run: in the limit of short steps."""
        return self.dynamics(f, flow, None, None)

    def calls(self, t: float) -> int:
        return self.estimate.calls if self.rho else 1

    def for_rows(self, start: int, end: int) -> Controller:
        return replace(self, energy=for_rows(self.energy, start, end))

    def dynamics(self, f: Dynamics, flow: Flow, cond: Cond, steps: RunSteps | None) -> Dynamics:
        """The steered drift of one run."""
        path = affine_path(flow, "TFG")
        energy = Smoothed(self.energy, self.gamma, self.samples, self.rng) if self.gamma else self.energy
        if self.rho == 0 == self.mu:
            return f

        def steered(x: Tensor, t: Tensor) -> Tensor:
            if self.rho:
                v, found = self.estimate(energy, f, path, x, t, cond)
                change = -self.rho * _share(self.rho_shape, t, x) * self._clipped(found.slope)
                x1 = found.data if self.estimate.calls == 1 else path.data(x, v, t)
            else:
                with torch.no_grad():
                    v = f(x, t)
                change, x1 = torch.zeros_like(v), path.data(x, v, t)
            if self.mu:
                step = Step(*(steps.around(t) if steps else (t, t)))
                size = self.mu * _share(self.mu_shape, t, x)
                total = self._descended(energy, x1, size * expand_time(self.kept.unit(step), x).to(x), t, cond)
                change = change - size * expand_time(self.kept.change(path, step), x).to(x) * total
            return v + change

        return steered

    def _descended(self, energy: Energy, x1: Tensor, size: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The sum of the gradients [B,*S] of gradient steps of a size from the data ``x1``."""
        total = torch.zeros_like(x1)
        for _ in range(self.iterations):
            slope = self._clipped(descent(energy, lambda x1: x1, x1 - size * total, t, cond).slope)
            total = total + slope
        return total

    def _clipped(self, slope: Tensor) -> Tensor:
        if self.clip == math.inf:
            return slope
        norms = slope.flatten(1).norm(dim=1).clamp(min=self.clip)
        return slope * expand_time(self.clip / norms, slope)


def _share(shape: ScaleShape | None, t: Tensor, x: Tensor) -> Tensor | float:
    return 1.0 if shape is None else expand_time(shape(t), x).to(x)
