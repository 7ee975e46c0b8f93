"""Controllers that follow the gradient of an energy of the predicted datum."""

from __future__ import annotations

from dataclasses import field, replace

from torch import Tensor

from beeline.core.protocols.steering import Controller, Energy, Run
from beeline.core.ranges import NonNegative, dataclass
from beeline.core.types import Cond, Dynamics, expand_time
from beeline.fields.flow import Flow
from beeline.sampling.steering.controller import ControllerBase, OfRun, affine_path, score_weight
from beeline.sampling.steering.gradients.estimates import Estimate, OneStep
from beeline.sampling.steering.modalities import for_rows


@dataclass(frozen=True)
class EnergyGuidance(ControllerBase):
    """Follows the gradient of the energy of the predicted datum, through the network.

    v' = v - strength w(t) grad_x E(D(x, t)),  w(t) = (1 - t) / t on the straight path,  D = x + (1 - t) v
    The weight is that of a conditional flow for E = -log p(y | x1), strength 1 and an energy that is linear in x1.  The
    energy of the mean D is not the mean energy, so that for other energies the result is biased: on a Gaussian with a
    quadratic energy its variance is too small.
    Assumes an affine path and a differentiable energy.
    Source: Chung et al. 2022, "Diffusion Posterior Sampling for General Noisy Inverse Problems" (arXiv 2209.14687).

    >>> import torch
    >>> pull = EnergyGuidance(lambda x1, t, cond=None: x1.square().sum(1) / 2)
    >>> f = pull.steer(lambda x, t: 0 * x, Flow(lambda x, t, cond=None: 0 * x))
    >>> f(torch.ones(1, 1), torch.full((1,), 0.5))
    tensor([[-1.]])
    """

    energy: Energy
    strength: NonNegative = 1.0  # 0 is no guidance
    estimate: Estimate = field(default_factory=OneStep)  # the datum whose energy counts

    def for_run(self, run: Run) -> Controller:
        return OfRun(lambda f, flow: self.dynamics(f, flow, run.cond))

    def steer(self, f: Dynamics, flow: Flow) -> Dynamics:
        return self.dynamics(f, flow, None)

    def calls(self, t: float) -> int:
        return self.estimate.calls if self.strength else 1

    def for_rows(self, start: int, end: int) -> Controller:
        return replace(self, energy=for_rows(self.energy, start, end))

    def dynamics(self, f: Dynamics, flow: Flow, cond: Cond) -> Dynamics:
        """The steered drift of one run."""
        path = affine_path(flow, "EnergyGuidance")
        if self.strength == 0:
            return f

        def steered(x: Tensor, t: Tensor) -> Tensor:
            v, _, slope = self.estimate(self.energy, f, path, x, t, cond)
            return v - self.strength * expand_time(score_weight(path, t), x).to(x) * slope

        return steered
