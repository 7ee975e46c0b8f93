"""Predictions of the datum through which the gradient of an energy is taken."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from beeline.core.host_times import map_times
from beeline.core.protocols.steering import Energy
from beeline.core.ranges import Count, dataclass
from beeline.core.types import Cond, Dynamics, expand_time
from beeline.paths.affine import AffinePath
from beeline.sampling.steering.controller import Descent, descent


class Slope(NamedTuple):
    """A velocity [B,*S], and the energy of the datum that it predicts, with its gradients; without graph."""

    velocity: Tensor
    found: Descent


class Estimate(Protocol):
    """A prediction of the datum, differentiable in the state."""

    @property
    def calls(self) -> int:
        """Evaluations of the drift."""
        ...

    def __call__(self, energy: Energy, f: Dynamics, path: AffinePath, x: Tensor, t: Tensor, cond: Cond) -> Slope: ...


@dataclass(frozen=True)
class OneStep:
    """The mean datum, as the velocity gives it.

    D(x, t) = x + (1 - t) v(x, t) on the straight path

    >>> OneStep().calls
    1
    """

    calls = 1

    def __call__(self, energy: Energy, f: Dynamics, path: AffinePath, x: Tensor, t: Tensor, cond: Cond) -> Slope:
        found: list[Tensor] = []

        def data(state: Tensor) -> Tensor:
            found[:] = [f(state, t)]
            return path.data(state, found[0], t)

        made = descent(energy, data, x, t, cond)
        return Slope(found[0].detach(), made)


@dataclass(frozen=True)
class SeveralSteps:
    """The end of several Euler steps of the flow, with their exact gradient.

    y_0 = x,  y_(k+1) = y_k + h f(y_k, t + k h),  h = (1 - t) / steps;
    g_n = grad E(y_n),  g_k = g_(k+1) + h (df/dy at y_k)^T g_(k+1);  the gradient in x is g_0
    The states are stored and one evaluation at a time is repeated with its graph, so that the memory is that of one
    step; the gradient is that of automatic differentiation through all steps.
    Assumes a flow that can be integrated, and an energy of data at t = 1.
    Source: Pan et al. 2023, "Towards Accurate Guided Diffusion Sampling through Symplectic Adjoint Method"
    (arXiv 2312.12030).

    >>> SeveralSteps(4).calls
    7
    """

    steps: Count = 4  # 1 is OneStep on the straight path; 4 or 5 is usual

    @property
    def calls(self) -> int:
        return 2 * self.steps - 1

    def __call__(self, energy: Energy, f: Dynamics, path: AffinePath, x: Tensor, t: Tensor, cond: Cond) -> Slope:
        times = [map_times(lambda t, share=k / self.steps: t + share * (1 - t), t) for k in range(self.steps)]
        length = expand_time((1 - t) / self.steps, x)
        states, velocities = [x.detach()], list[Tensor]()

        def moved(k: int, y: Tensor) -> Tensor:
            v = f(y, times[k])
            velocities.append(v.detach())
            return y + length * v

        with torch.no_grad():
            for k in range(self.steps - 1):
                states.append(moved(k, states[k]))
        made = descent(energy, lambda y: moved(self.steps - 1, y), states[-1], t, cond)
        gradient = made.slope
        for k in reversed(range(self.steps - 1)):
            with torch.enable_grad():
                y = states[k].requires_grad_()
                (gradient,) = torch.autograd.grad(moved(k, y), y, gradient)
        return Slope(velocities[0], made._replace(slope=gradient))
