"""Controllers that follow the gradient of an energy of the predicted datum."""

from __future__ import annotations

from dataclasses import field, replace

import torch
from torch import Tensor

from beeline.core.protocols.steering import Controller, Energy, Run
from beeline.core.ranges import NonNegative, dataclass
from beeline.core.types import Cond, Dynamics, expand_time
from beeline.fields.flow import Flow
from beeline.paths.affine import AffinePath
from beeline.sampling.steering.controller import (
    ControllerBase,
    Descent,
    OfRun,
    affine_path,
    score_weight,
)
from beeline.sampling.steering.gradients.estimates import Estimate, OneStep
from beeline.sampling.steering.modalities import for_rows


@dataclass(frozen=True)
class EnergyGuidance(ControllerBase):
    """Follows the gradient of the energy of the predicted datum, through the network.

    v' = v - strength w(t) grad_x E(D(x, t)) / (1 + c s^2),  w(t) = (1 - t) / t on the straight path,
    D = x + (1 - t) v,  g = grad E(D),  c = |g|^2 / (2 E) where E > 0 and 0 elsewhere,
    s^2 = (1 - t)^2 / t g' (dD/dx) g / |g|^2, the variance of the datum along g
    c is the second derivative of a square with the value and the slope of E, so that no step leads far beyond E = 0.
    With E = -log p(y | x1) and strength 1, samples of Gaussian data follow the posterior of one linear measurement with
    Gaussian noise; for other energies and data it is an approximation.  Without ``damped``, c is 0 (DPS): that is exact
    for energies that are linear in the datum.  For others the energy of the mean D is taken for the mean energy, so
    that variances are too small, and energies that grow fast need many steps or diverge.
    Assumes an affine path and a differentiable energy; the variance a Gaussian source and an independent coupling.
    Source: Chung et al. 2022, "Diffusion Posterior Sampling for General Noisy Inverse Problems" (arXiv 2209.14687);
    the variance: Boys et al. 2023, "Tweedie Moment Projected Diffusions" (arXiv 2310.06721).

    >>> import torch
    >>> pull = EnergyGuidance(lambda x1, t, cond=None: x1.square().sum(1) / 2, damped=False)
    >>> f = pull.steer(lambda x, t: 0 * x, Flow(lambda x, t, cond=None: 0 * x))
    >>> f(torch.ones(1, 1), torch.full((1,), 0.5))
    tensor([[-1.]])
    """

    energy: Energy
    strength: NonNegative = 1.0  # 0 is no guidance
    estimate: Estimate = field(default_factory=OneStep)  # the datum whose energy counts
    damped: bool = True  # account for the variance of the datum

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
            v, found = self.estimate(self.energy, f, path, x, t, cond)
            weight = self.strength * score_weight(path, t)
            if self.damped:
                weight = weight / (1 + _damping(path, found, t))
            return v - expand_time(weight, x).to(x) * found.slope

        return steered


def _damping(path: AffinePath, found: Descent, t: Tensor) -> Tensor:
    """The variance of the datum along the gradient of its energy, times the second derivative of the energy, [B]."""
    wide = torch.promote_types(found.slope.dtype, torch.float32)
    g, slope, value = (part.flatten(1).to(wide) for part in (found.at_data, found.slope, found.value[:, None]))
    value = value[:, 0]
    a, b = path.a(t), path.b(t)
    along = (b**2 / a.clamp(min=1e-2)).to(wide) * (g * slope).sum(1).clamp(min=0)
    return torch.where(value > 0, along / (2 * value.clamp(min=torch.finfo(wide).tiny)), 0.0)
