"""Distances between what was made and what was wanted: by direction, by features, by a convex cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.protocols.training import Cost
from beeline.core.ranges import NonNegative, dataclass
from beeline.objectives.losses.basic import Context, ContextDistance, Distance, Huber, Weight, distance_at, one, squared
from beeline.objectives.losses.encoders import Encoder, RandomFeatures
from beeline.objectives.losses.weights import PowerWeight


@dataclass(frozen=True)
class Direction(ContextDistance):
    """A distance and, beside it, how far the velocity points the wrong way.

    base(v, u) + strength (1 - cos(v, u)),  the angle over all coordinates of a datum
    Assumes that both matter; the cosine pulls the minimum from E[u | x] towards E[u / |u| | x], the same only where
    the velocity is certain.
    Source: Yao et al. 2024, FasterDiT (arXiv 2410.10356).

    >>> Direction(1.0)(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    tensor([0.5000])
    """

    strength: NonNegative = 1.0  # of the angle; 0 is the base distance
    base: Distance = squared

    def __call__(self, made: Tensor, wanted: Tensor) -> Tensor:
        cosine = torch.nn.functional.cosine_similarity(made.flatten(1), wanted.flatten(1), dim=1, eps=1e-8)
        return self.base(made, wanted) + self.strength * (1 - cosine)

    def at(self, where: Context) -> Distance:
        return replace(self, base=distance_at(self.base, where))

    @property
    def contextual(self) -> bool:
        return isinstance(self.base, ContextDistance) and self.base.contextual


@dataclass(frozen=True)
class Perceptual(ContextDistance):
    """The distance between features of the data that two values imply, by any network.

    strength mean_l |f_l(x1_hat) - f_l(x1)|^2 + plain |x1_hat - x1|^2,  means over the coordinates of a datum
    x1_hat is the data end of a velocity (or noise) at its state: x_t + (1-t) v on the straight path.  Called without a
    context it compares the two tensors that it is given.
    Assumes an affine path, and a differentiable feature function, frozen, that takes data of this shape; each output
    [B,...].
    Source: Zhang et al. 2018 (arXiv 1801.03924), LPIPS; in flow matching Lee, Lin and Fanti 2024 (arXiv 2405.20320).

    >>> Perceptual(lambda x: 2 * x, plain=0.0)(torch.ones(1, 2), torch.zeros(1, 2))
    tensor([4.])
    """

    features: Callable[[Tensor], Tensor | Sequence[Tensor]] = RandomFeatures()  # data -> one or several feature tensors
    strength: NonNegative = 1.0  # of the features
    plain: NonNegative = 0.1  # of the squared difference, which keeps what the features do not see

    def __call__(self, made: Tensor, wanted: Tensor) -> Tensor:
        mine, theirs = seen(self.features, made), seen(self.features, wanted.detach())
        check_learnable(mine[0], made)
        apart = [squared(m, t.detach()) for m, t in zip(mine, theirs, strict=True)]
        return self.strength * torch.stack(apart).mean(0) + self.plain * squared(made, wanted)

    def at(self, where: Context) -> Distance:
        return lambda made, wanted: self(where.data(made), where.data(wanted))


@dataclass(frozen=True)
class Combined(ContextDistance):
    """A sum of distances, each with a weight over time; by default the LPIPS-Huber loss of improved rectified flow.

    sum_i weights_i(t) parts_i(made, wanted);  default: t huber(v, u) + |f(x1_hat) - f(x1)|^2
    Assumes as many weights as parts.  Give ``Perceptual`` the features of the data; the variant for CIFAR-10 has the
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
            f"Combined got {len(self.parts)} distances and {len(self.weights)} weights over time; give one weight for "
            "every distance, 'one' for none",
        )

    def at(self, where: Context) -> Distance:
        parts = [distance_at(part, where) for part in self.parts]

        def distance(made: Tensor, wanted: Tensor) -> Tensor:
            each = [w(where.t) * part(made, wanted) for w, part in zip(self.weights, parts, strict=True)]
            return torch.stack(each).sum(0)

        return distance

    def __call__(self, made: Tensor, wanted: Tensor) -> Tensor:
        raise BeelineError(
            "Combined was asked for a distance without times, over which its parts are weighed; use it in "
            "FlowMatching(), Reflow or OneStep, which give them, or one of its parts elsewhere"
        )


@dataclass(frozen=True)
class FeatureWeighted(ContextDistance):
    """The error of a velocity as features of the state feel it: what they do not see may differ.

    strength mean |J_h(x_t) (v - u)|^2 + plain mean |v - u|^2,  J_h the Jacobian of the features (jvp)
    Assumes differentiable features, frozen, that take data of this shape.  The minimum is E[u | x_t] as without them:
    they weigh its directions, for transfer between domains those of style over those of content.
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003), section on domain transfer.

    >>> from beeline.fields.flow import Velocity
    >>> from beeline.paths.affine import Linear
    >>> where = Context(torch.zeros(1, 2), torch.zeros(1), Linear(), Velocity())
    >>> FeatureWeighted(lambda x: 2 * x, plain=0.0).at(where)(torch.ones(1, 2), torch.zeros(1, 2))
    tensor([4.])
    """

    features: Encoder = RandomFeatures()  # data -> features [B,...]
    strength: NonNegative = 1.0  # of the error that the features feel
    plain: NonNegative = 0.1  # of the squared error, for directions that they do not; above 0

    def at(self, where: Context) -> Distance:
        x = where.x

        def distance(made: Tensor, wanted: Tensor) -> Tensor:
            with torch.no_grad():
                seen(self.features, x[:1])  # an error of theirs comes out here, and lazy ones build themselves
            felt = torch.func.jvp(self.features, (x.detach(),), (made - wanted,))[1]
            check_learnable(felt, made)
            return self.strength * felt.square().flatten(1).mean(1) + self.plain * squared(made, wanted)

        return distance

    def __call__(self, made: Tensor, wanted: Tensor) -> Tensor:
        raise BeelineError(
            "FeatureWeighted was asked for a distance without the states at which velocities differ; it is for "
            "FlowMatching, which gives them: elsewhere take Perceptual, squared or Huber"
        )


def seen(features: Callable[[Tensor], Tensor | Sequence[Tensor]], x: Tensor) -> list[Tensor]:
    """What features say of data [B,*S], as a list; an error where they do not take data of this shape."""
    try:
        made = features(x)
    except BeelineError:
        raise
    except (RuntimeError, IndexError, ValueError) as error:
        raise BeelineError(
            f"the feature network does not take data of shape {tuple(x.shape)} ({str(error).splitlines()[0]}); a "
            "distance by features needs those of the data's own shape: resize inside the function, or use another one"
        ) from error
    parts = [made] if isinstance(made, Tensor) else list(made)
    require(
        all(len(p) == len(x) for p in parts),
        f"the feature network gave {[tuple(p.shape) for p in parts]} for {len(x)} data; a distance is per sample: "
        "keep the batch dimension first",
    )
    return parts


def check_learnable(features: Tensor, made: Tensor) -> None:
    """Refuse features through which nothing can be learned."""
    require(
        features.requires_grad or not made.requires_grad,
        "the feature network gives no gradient, so that nothing would be learned through it; take RandomFeatures, or a "
        "function without no_grad and detach",
    )


# below this gradient a power cost is taken as quadratic: its slopes are zero or infinite at zero itself, where
# networks begin
_LEAST = 1e-6


@dataclass(frozen=True)
class PowerCost:
    """A power of every coordinate of the displacement.

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
    """The gap of a convex cost, with which a rectified flow works for that cost.

    D_c(u, v) = c(u) - c(v) - <grad c(v), u - v>, divided by the coordinates;  half the squared distance for p = 2
    Assumes a strictly convex cost.  For every such cost the minimum is E[u | x]; with a Potential network it is the
    nearest gradient field, and repeated reflow goes to the optimal transport for c.
    Source: Liu 2022 (arXiv 2209.14577), c-rectified flow.

    >>> Bregman()(torch.zeros(1, 2), torch.ones(1, 2))
    tensor([0.5000])
    """

    cost: Cost = PowerCost(2.0)

    def __call__(self, made: Tensor, wanted: Tensor) -> Tensor:
        gap = self.cost.value(wanted) - self.cost.value(made)
        slope = (self.cost.gradient(made) * (wanted - made)).flatten(1).sum(1)
        return (gap - slope) / made[0].numel()


def check_cost(cost: Any, like: Tensor) -> None:
    """Refuse a cost whose gradient and dual are not inverse, or which is not convex, on the displacements ``like``."""
    back = cost.dual(cost.gradient(like))
    turned = 2 * like.roll(1, 0)
    gap = cost.value(turned) - cost.value(like) - (cost.gradient(like) * (turned - like)).flatten(1).sum(1)
    require(
        bool(torch.isfinite(gap).all()) and bool((gap >= -1e-6).all()) and torch.allclose(back, like, atol=1e-3),
        f"the cost {cost} is not convex with the conjugate that it names: dual(gradient(u)) differs from u by "
        f"{float((back - like).abs().max()):.3g} and the lowest gap is {float(gap.min()):.3g}; give a strictly convex "
        "cost, such as PowerCost(p), with grad c* as dual",
    )
