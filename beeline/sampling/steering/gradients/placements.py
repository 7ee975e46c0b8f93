"""What stays as it is where a controller moves the predicted datum."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from beeline.core.ranges import dataclass
from beeline.paths.affine import AffinePath


class Step(NamedTuple):
    """Start and end of the step in which a drift is evaluated, both with the shape of the time."""

    start: Tensor
    end: Tensor

    @property
    def length(self) -> Tensor:
        return self.end - self.start


class Placement(Protocol):
    """Turns a move of the predicted datum into a change of the velocity.

    A controller moves the datum by Delta = unit m, and adds change m to the velocity.  Both have the shape of the time.
    A step of length zero stands for the limit of short steps.
    """

    def unit(self, step: Step) -> Tensor: ...

    def change(self, path: AffinePath, step: Step) -> Tensor: ...


@dataclass(frozen=True)
class NoiseKept:
    """The predicted noise stays: a step ends at the moved datum with the same noise.

    x_s = a_s (D + Delta) + b_s E;  Delta is proportional to the length of the step, so that the number of steps matters
    little
    Source: He et al. 2023, "Manifold Preserving Guided Diffusion" (arXiv 2311.16424).

    >>> from beeline.paths.affine import Linear
    >>> NoiseKept().change(Linear(), Step(torch.tensor([0.5]), torch.tensor([0.75])))
    tensor([0.7500])
    """

    def unit(self, step: Step) -> Tensor:
        return step.length

    def change(self, path: AffinePath, step: Step) -> Tensor:
        return path.a(step.end)


@dataclass(frozen=True)
class StateKept:
    """The state stays, so that the predicted noise moves against the datum.

    E' = E - (a_t / b_t) Delta,  x_s = a_s (D + Delta) + b_s E';  on the straight path x_s = x + (s - t) (v + Delta / (1
    - t)).  Delta does not depend on the length of the step.
    Source: Bansal et al. 2023, "Universal Guidance for Diffusion Models" (arXiv 2302.07121), backward guidance.

    >>> from beeline.paths.affine import Linear
    >>> StateKept().change(Linear(), Step(torch.tensor([0.5]), torch.tensor([0.75])))
    tensor([2.])
    """

    def unit(self, step: Step) -> Tensor:
        return torch.ones_like(step.start)

    def change(self, path: AffinePath, step: Step) -> Tensor:
        a, b, da, db = path.coefficients(path.finite_slope_time(step.start.clamp(max=1 - 1e-3), 1e-3))
        whole = (path.a(step.end) - path.b(step.end) * a / b) / torch.where(step.length == 0, 1, step.length)
        return torch.where(step.length == 0, da - db * a / b, whole)


@dataclass(frozen=True)
class VelocityKept:
    """The velocity stays: state and datum move together, as if the datum did not depend on the network.

    x' = x + Delta,  x_s = x' + (s - t) v on the straight path;  in general E' = E - (a' / b') Delta
    Delta is proportional to the length of the step, so that the number of steps matters little.
    Source: Patel et al. 2024, "FlowChef: Steering Rectified Flow Models in the Vector Field" (arXiv 2412.00100).

    >>> from beeline.paths.affine import Linear
    >>> VelocityKept().change(Linear(), Step(torch.tensor([0.5]), torch.tensor([0.75])))
    tensor([1.])
    """

    def unit(self, step: Step) -> Tensor:
        return step.length

    def change(self, path: AffinePath, step: Step) -> Tensor:
        _, _, da, db = path.coefficients(path.finite_slope_time(step.start, 1e-3))
        return path.a(step.end) - path.b(step.end) * da / db
