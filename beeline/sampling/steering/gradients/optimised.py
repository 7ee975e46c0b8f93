"""Optimisation of the predicted datum between steps."""

from __future__ import annotations

from dataclasses import field, replace

import torch
from torch import Tensor

from beeline.core.protocols.steering import Controller, Energy, Run
from beeline.core.ranges import Count, Positive, dataclass
from beeline.core.types import Cond, Dynamics, expand_time
from beeline.fields.flow import Flow
from beeline.sampling.guidance.dependence import RunSteps, needs_times
from beeline.sampling.steering.controller import ControllerBase, OfRun, affine_path, descent
from beeline.sampling.steering.gradients.placements import NoiseKept, Placement, Step
from beeline.sampling.steering.modalities import for_rows


@dataclass(frozen=True)
class PeriodicOptimisation(ControllerBase):
    """Optimises the predicted datum in every few steps, and keeps the predicted noise.

    In the steps number every, 2 every, ...:  D' = D after ``iterations`` steps of Adam on the energy,
    x_s = a_s D' + b_s E;  other steps are those of the flow.  More steps than the run has are no guidance.
    Every sample is optimised by itself.  The network is not differentiated.
    Biased: the datum is led to a minimum of the energy, whatever its probability, so that samples vary too little.
    Assumes an affine path, and a one-step solver, because the optimisation invalidates the history of others.
    Source: Deb Sarkar et al. 2025, "GuideFlow3D: Optimization-Guided Rectified Flow for Appearance Transfer"
    (arXiv 2510.16136).

    >>> from beeline.sampling.steering.energies.squared import Near
    >>> PeriodicOptimisation(Near((0.5, 1.0)), every=4).calls(0.5)
    1
    """

    energy: Energy
    every: Count = 5  # steps from one optimisation to the next
    iterations: Count = 20  # steps of Adam
    lr: Positive = 0.05  # step size of Adam, in the units of the data
    kept: Placement = field(default_factory=NoiseKept)  # what stays where the datum moves

    def for_run(self, run: Run) -> Controller:
        steps = RunSteps(run.times, "PeriodicOptimisation")
        return OfRun(lambda f, flow: self.dynamics(f, flow, run.cond, steps))

    def steer(self, f: Dynamics, flow: Flow) -> Dynamics:
        """Raises ValueError: the steps to change are those of a run."""
        needs_times("PeriodicOptimisation")
        return f

    def for_rows(self, start: int, end: int) -> Controller:
        return replace(self, energy=for_rows(self.energy, start, end))

    def dynamics(self, f: Dynamics, flow: Flow, cond: Cond, steps: RunSteps) -> Dynamics:
        """The steered drift of one run."""
        path = affine_path(flow, "PeriodicOptimisation")

        def steered(x: Tensor, t: Tensor) -> Tensor:
            if (steps.index(t) + 1) % self.every:
                return f(x, t)
            with torch.no_grad():
                v = f(x, t)
            step, x1 = Step(*steps.around(t)), path.data(x, v, t)
            move = self.optimised(x1, t, cond) - x1
            change = self.kept.change(path, step) / self.kept.unit(step)
            return v + expand_time(change, x).to(x) * move

        return steered

    def optimised(self, x1: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The data [B,*S] after the steps of Adam."""
        data = x1.detach().clone()
        optimizer = torch.optim.Adam([data], lr=self.lr)
        for _ in range(self.iterations):
            data.grad = descent(self.energy, lambda x1: x1, data, t, cond).slope
            optimizer.step()
        return data
