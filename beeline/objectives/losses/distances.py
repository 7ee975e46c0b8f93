"""Distances between prediction and target: by direction, by features, by a convex cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.protocols.data import Encoder
from beeline.core.protocols.objectives import DistanceInContext
from beeline.core.protocols.training import Cost
from beeline.core.ranges import NonNegative, Positive, dataclass
from beeline.objectives.losses.basic import Context, ContextDistance, Distance, Huber, Weight, distance_at, one, squared
from beeline.objectives.losses.encoders import RandomFeatures
from beeline.objectives.losses.weights import PowerWeight


@dataclass(frozen=True)
class Direction(ContextDistance):
    """A distance plus the cosine distance of the velocities.

    base(v, u) + strength (1 - cos(v, u)),  the angle over all coordinates of a datum
    The cosine moves the minimum from E[u | x] towards E[u / |u| | x]; the two agree where u is determined by x.
    Source: Yao et al. 2024, FasterDiT (arXiv 2410.10356).

    >>> Direction(1.0)(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    tensor([0.5000])
    """

    strength: NonNegative = 1.0  # of the angle; 0 is the base distance
    base: Distance = squared

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        cosine = torch.nn.functional.cosine_similarity(predicted.flatten(1), target.flatten(1), dim=1, eps=1e-8)
        return self.base(predicted, target) + self.strength * (1 - cosine)

    def at(self, where: Context) -> Distance:
        return replace(self, base=distance_at(self.base, where))

    @property
    def contextual(self) -> bool:
        return isinstance(self.base, DistanceInContext) and self.base.contextual


@dataclass(frozen=True)
class Perceptual(ContextDistance):
    """Squared distance between features of the data that two values imply.

    strength mean_l |f_l(x1_hat) - f_l(x1)|^2 + plain |x1_hat - x1|^2,  means over the coordinates of a datum
    x1_hat is the data end of a velocity (or noise) at its state: x_t + (1-t) v on the straight path.  Called without a
    context it compares its two arguments themselves.
    Assumes an affine path, and a frozen differentiable feature function for data of this shape, with outputs [B,...].
    Source: Zhang et al. 2018 (arXiv 1801.03924), LPIPS; in flow matching Lee, Lin and Fanti 2024 (arXiv 2405.20320).

    >>> Perceptual(lambda x: 2 * x, plain=0.0)(torch.ones(1, 2), torch.zeros(1, 2))
    tensor([4.])
    """

    features: Callable[[Tensor], Tensor | Sequence[Tensor]] = RandomFeatures()  # data -> one or several feature tensors
    strength: NonNegative = 1.0  # of the features
    plain: NonNegative = 0.1  # of the squared difference, for directions to which the features are blind

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        mine, theirs = features_of(self.features, predicted), features_of(self.features, target.detach())
        check_learnable(mine[0], predicted)
        apart = [squared(m, t.detach()) for m, t in zip(mine, theirs, strict=True)]
        return self.strength * torch.stack(apart).mean(0) + self.plain * squared(predicted, target)

    def at(self, where: Context) -> Distance:
        return lambda predicted, target: self(where.data(predicted), where.data(target))


@dataclass(frozen=True)
class Combined(ContextDistance):
    """A sum of distances, each with a weight over time; the default is the LPIPS-Huber loss of improved rectified flow.

    sum_i weights_i(t) parts_i(predicted, target);  default: t huber(v, u) + |f(x1_hat) - f(x1)|^2
    Assumes as many weights as parts.  Pass features of the data to ``Perceptual``; the variant for CIFAR-10 has the
    second weight ``PowerWeight(0, -1)``, which is 1 / (1-t).
    Source: Lee, Lin and Fanti 2024 (arXiv 2405.20320).

    >>> len(Combined((squared, Direction()), (one, one)).parts)
    2
    """

    parts: tuple[Distance, ...] = (Huber(), Perceptual(plain=0.0))
    weights: tuple[Weight, ...] = (PowerWeight(1.0), one)

    def __post_init__(self) -> None:
        require(
            len(self.parts) == len(self.weights) > 0,
            f"Combined got {len(self.parts)} distances and {len(self.weights)} weights over time; every distance has "
            "one weight: give equal numbers, with 'one' where a distance is not weighted",
        )

    def at(self, where: Context) -> Distance:
        parts = [distance_at(part, where) for part in self.parts]

        def distance(predicted: Tensor, target: Tensor) -> Tensor:
            each = [w(where.t) * part(predicted, target) for w, part in zip(self.weights, parts, strict=True)]
            return torch.stack(each).sum(0)

        return distance

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        raise BeelineError(
            "Combined was called without times, by which its parts are weighted; use it in FlowMatching(), Reflow or "
            "OneStep, and one of its parts elsewhere"
        )


@dataclass(frozen=True)
class FeatureWeighted(ContextDistance):
    """Velocity error through the Jacobian of a feature network.

    strength mean |J_h(x_t) (v - u)|^2 + plain mean |v - u|^2,  J_h the Jacobian of the features (jvp)
    Assumes frozen differentiable features for data of this shape.  The minimum is still E[u | x_t]; the features weight
    the directions of the error, for domain transfer those of style over those of content.
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003), section on domain transfer.

    >>> from beeline.fields.flow import Velocity
    >>> from beeline.paths.affine import Linear
    >>> where = Context(torch.zeros(1, 2), torch.zeros(1), Linear(), Velocity())
    >>> FeatureWeighted(lambda x: 2 * x, plain=0.0).at(where)(torch.ones(1, 2), torch.zeros(1, 2))
    tensor([4.])
    """

    features: Encoder = RandomFeatures()  # data -> features [B,...]
    strength: NonNegative = 1.0  # of the error through the features
    plain: NonNegative = 0.1  # of the squared error, for directions to which the features are blind; above 0

    def at(self, where: Context) -> Distance:
        x = where.x

        def distance(predicted: Tensor, target: Tensor) -> Tensor:
            with torch.no_grad():
                features_of(self.features, x[:1])  # checks the shape, and builds lazy modules
            projected = torch.func.jvp(self.features, (x.detach(),), (predicted - target,))[1]
            check_learnable(projected, predicted)
            return self.strength * projected.square().flatten(1).mean(1) + self.plain * squared(predicted, target)

        return distance

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        raise BeelineError(
            "FeatureWeighted was called without states, at which it takes the Jacobian of the features; use it in "
            "FlowMatching(), and Perceptual, squared or Huber elsewhere"
        )


@dataclass(frozen=True)
class AffineInvariant:
    """Mean absolute difference after each of two values is shifted to median 0 and scaled to mean deviation 1.

    mean |(y_hat - med y_hat) / s(y_hat) - (y - med y) / s(y)|,  s(y) = mean |y - med y|,  over the places of a datum
    For depth maps, which are known up to shift and scale.  ``eps`` keeps the scale of constant values above 0.
    Source: Ranftl et al. 2022, MiDaS (arXiv 1907.01341).

    >>> AffineInvariant()(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0, 30.0, 50.0]])) < 1e-4
    tensor([True])
    """

    eps: Positive = 1e-6

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        return (self._normal(predicted) - self._normal(target)).abs().mean(1)

    def _normal(self, y: Tensor) -> Tensor:
        y = y.flatten(1)
        y = y - y.median(1, keepdim=True).values
        return y / (y.abs().mean(1, keepdim=True) + self.eps)


def features_of(features: Callable[[Tensor], Tensor | Sequence[Tensor]], x: Tensor) -> list[Tensor]:
    """The outputs of a feature network for data [B,*S], as a list.

    ValueError where it does not take data of this shape, or gives outputs without the batch dimension.
    """
    try:
        predicted = features(x)
    except BeelineError:
        raise
    except (RuntimeError, IndexError, ValueError) as error:
        raise BeelineError(
            f"the feature network failed on data of shape {tuple(x.shape)} ({str(error).splitlines()[0]}); a distance "
            "by features takes data of that shape: resize inside the function, or use another network"
        ) from error
    parts = [predicted] if isinstance(predicted, Tensor) else list(predicted)
    require(
        all(len(p) == len(x) for p in parts),
        f"the feature network gave {[tuple(p.shape) for p in parts]} for {len(x)} data; a distance is per sample: "
        "return outputs with the batch dimension first",
    )
    return parts


def check_learnable(features: Tensor, predicted: Tensor) -> None:
    """Refuse features without a gradient."""
    require(
        features.requires_grad or not predicted.requires_grad,
        "the feature network gives no gradient, so the distance would train nothing; use RandomFeatures, or a function "
        "without no_grad and detach",
    )


# below this gradient a power cost is treated as quadratic: at zero, where networks are initialised, its slopes are zero
# or infinite
_LEAST = 1e-6


@dataclass(frozen=True)
class PowerCost:
    """The p-th power of every coordinate of the displacement.

    c(u) = sum_i |u_i|^p / p,  grad c = |u|^(p-1) sign u,  grad c* = |y|^(1/(p-1)) sign y
    Assumes p > 1, so that it is strictly convex.
    Source: Liu 2022, "Rectified Flow: A Marginal Preserving Approach to Optimal Transport" (arXiv 2209.14577).

    >>> PowerCost(2.0).value(torch.tensor([[3.0, 4.0]]))
    tensor([12.5000])
    """

    p: float = 2.0  # above 1; 2 is quadratic

    def __post_init__(self) -> None:
        require(self.p > 1, f"PowerCost got p={self.p}; at or below 1 the cost is not strictly convex: give p above 1")

    def value(self, u: Tensor) -> Tensor:
        return u.abs().pow(self.p).flatten(1).sum(1) / self.p

    def gradient(self, u: Tensor) -> Tensor:
        return u * u.abs().clamp(min=_LEAST ** (1 / (self.p - 1))).pow(self.p - 2)

    def dual(self, y: Tensor) -> Tensor:
        return y * y.abs().clamp(min=_LEAST).pow(1 / (self.p - 1) - 1)


@dataclass(frozen=True)
class Bregman:
    """Bregman divergence of a convex cost, for rectified flow with that cost.

    D_c(u, v) = c(u) - c(v) - <grad c(v), u - v>, divided by the coordinates;  half the squared distance for p = 2
    Assumes a strictly convex cost.  The minimum is E[u | x]; with a Potential network it is the nearest gradient field,
    and repeated reflow converges to the optimal transport for c.
    Source: Liu 2022 (arXiv 2209.14577), c-rectified flow.

    >>> Bregman()(torch.zeros(1, 2), torch.ones(1, 2))
    tensor([0.5000])
    """

    cost: Cost = PowerCost(2.0)

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        gap = self.cost.value(target) - self.cost.value(predicted)
        slope = (self.cost.gradient(predicted) * (target - predicted)).flatten(1).sum(1)
        return (gap - slope) / predicted[0].numel()


def check_cost(cost: Any, like: Tensor) -> None:
    """Refuse a cost that is not convex on the displacements ``like``, or whose dual does not invert its gradient."""
    back = cost.dual(cost.gradient(like))
    turned = 2 * like.roll(1, 0)
    gap = cost.value(turned) - cost.value(like) - (cost.gradient(like) * (turned - like)).flatten(1).sum(1)
    require(
        bool(torch.isfinite(gap).all()) and bool((gap >= -1e-6).all()) and torch.allclose(back, like, atol=1e-3),
        f"the cost {cost} is not convex, or its dual is not the gradient of its conjugate: dual(gradient(u)) differs "
        f"from u by {float((back - like).abs().max()):.3g} and the smallest Bregman divergence is "
        f"{float(gap.min()):.3g}; give a strictly convex cost with its dual, such as PowerCost(p)",
    )
