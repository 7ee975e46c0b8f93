"""Distances that rescale the error of a sample: for targets of very different sizes."""

from __future__ import annotations

from torch import Tensor

from beeline.core.ranges import NonNegative, Positive, dataclass
from beeline.objectives.losses.basic import Distance, squared


@dataclass(frozen=True)
class AdaptivePower:
    """A distance divided by a power of itself, so that samples with large errors have bounded gradients.

    e / sg(e + c)^p,  e = distance(predicted, target)
    p = 1 gives all samples almost the same loss, which then says little about the error; the gradient remains.
    Source: Geng et al. 2025, MeanFlow (arXiv 2505.13447).

    >>> import torch
    >>> AdaptivePower(power=1.0, floor=1.0)(torch.ones(1, 2), torch.zeros(1, 2))
    tensor([0.5000])
    """

    distance: Distance = squared
    power: NonNegative = 1.0  # 0.5 to 1; 0 is the distance itself
    floor: Positive = 1e-3  # c, in units of the distance

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        error = self.distance(predicted, target)
        return error / (error.detach() + self.floor) ** self.power


@dataclass(frozen=True)
class NormalisedTangent:
    """A distance to a target whose difference from the prediction is normalised: steps have a bounded length.

    distance(u, sg(u + g / (|g| + c))),  g = target - u,  |g| the root mean square over coordinates
    The loss is nearly constant by construction; the gradient is that of a bounded error.
    Source: Lu and Song 2024, "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models"
    (arXiv 2410.11081).

    >>> import torch
    >>> NormalisedTangent(floor=1.0)(torch.zeros(1, 2), torch.ones(1, 2))
    tensor([0.2500])
    """

    distance: Distance = squared
    floor: Positive = 0.1  # c, in data units

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        g = (target - predicted).detach()
        size = g.flatten(1).square().mean(1).sqrt() + self.floor
        return self.distance(predicted, predicted.detach() + g / size.reshape(-1, *[1] * (g.ndim - 1)))
