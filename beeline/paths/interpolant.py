"""Paths beyond the two ends: latent noise in between, bridges, noise that explodes, curves with an acceleration."""

from __future__ import annotations

import math
from dataclasses import field

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Latent
from beeline.core.ranges import NonNegative, check, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Point, expand_time
from beeline.paths.affine import AffinePath, Coefficients, Linear, check_slopes, check_times


@dataclass(frozen=True)
class BrownianBridge:
    """The latent noise of a BrownianBridge bridge.

    g(t) = scale sqrt(t (1-t))
    Assumes times inside (0, 1) wherever a slope is asked for, because g' is infinite at both ends.
    Source: Albergo, Boffi and Vanden-Eijnden 2023 (arXiv 2303.08797).

    >>> BrownianBridge(2.0).size(torch.tensor([0.5]))
    tensor([1.])
    """

    scale: NonNegative = 1.0  # of the noise, in data units; 0.1 to 2

    def size(self, t: Tensor) -> Tensor:
        return self.scale * torch.sqrt(t * (1 - t))

    def slope(self, t: Tensor) -> Tensor:
        return self.scale * (0.5 - t) / torch.sqrt(t * (1 - t))


@dataclass(frozen=True)
class Parabola:
    """A latent noise whose slope is finite everywhere.

    g(t) = scale t (1-t)
    Assumes nothing.
    Source: Albergo, Boffi and Vanden-Eijnden 2023 (arXiv 2303.08797).

    >>> Parabola(4.0).size(torch.tensor([0.5]))
    tensor([1.])
    """

    scale: NonNegative = 1.0  # of the noise, in data units

    def size(self, t: Tensor) -> Tensor:
        return self.scale * t * (1 - t)

    def slope(self, t: Tensor) -> Tensor:
        return self.scale * (1 - 2 * t)


@dataclass(frozen=True)
class SineSquared:
    """A latent noise that leaves both ends with slope zero.

    g(t) = scale sin^2(pi t)
    Assumes nothing.
    Source: Albergo, Boffi and Vanden-Eijnden 2023 (arXiv 2303.08797).

    >>> SineSquared().size(torch.tensor([0.5]))
    tensor([1.])
    """

    scale: NonNegative = 1.0  # of the noise, in data units

    def size(self, t: Tensor) -> Tensor:
        return self.scale * torch.sin(math.pi * t) ** 2

    def slope(self, t: Tensor) -> Tensor:
        return self.scale * math.pi * torch.sin(2 * math.pi * t)


@dataclass(frozen=True)
class Interpolant:
    """A stochastic interpolant: an affine path with latent noise between its ends, from any source to any data.

    x_t = a(t) x1 + b(t) x0 + g(t) z,  v = a' x1 + b' x0 + g' z,  z ~ N(0, I)
    Assumes nothing of the coupling.  E[v | x] moves the densities; with eta = E[z | x] the score is -eta / g, from any
    source (objective LatentNoise learns eta).
    Source: Albergo, Boffi and Vanden-Eijnden 2023, "Stochastic Interpolants" (arXiv 2303.08797).

    >>> Interpolant(latent=Parabola()).point(torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1), Rng(0)).x
    tensor([[1., 1.]])
    """

    path: AffinePath = field(default_factory=Linear)
    latent: Latent = field(default_factory=Parabola)

    def point(self, x0: Tensor, x1: Tensor, t: Tensor, rng: Rng | None = None) -> Point:
        return self.point_with_noise(x0, x1, t, required_rng(rng, self).normal(x1))

    def point_with_noise(self, x0: Tensor, x1: Tensor, t: Tensor, z: Tensor) -> Point:
        """The point whose latent noise is ``z`` [B,*S]."""
        x, v = self.path.point(x0, x1, t)
        size, slope = self.latent.size(t), self.latent.slope(t)
        check_slopes(slope, slope, t, self)
        return Point(x + expand_time(size, x) * z, v + expand_time(slope, x) * z)

    def score(self, eta: Tensor, t: Tensor) -> Tensor:
        """grad log p_t(x) from eta = E[z | x] [B,*S], inside (0, 1)."""
        size = self.latent.size(t)
        require(
            torch.compiler.is_compiling() or bool((size > 8 * torch.finfo(size.dtype).eps).all()),
            f"the score of {type(self).__name__} was asked for where its latent noise is zero; there is none to see "
            "there: use a time inside (0, 1)",
        )
        return -eta / expand_time(size, eta)


@dataclass(frozen=True)
class Bridge(Interpolant):
    """The BrownianBridge bridge between two points, as in Schroedinger-bridge matching.

    x_t = (1-t) x0 + t x1 + sigma sqrt(t (1-t)) z,  v = x1 - x0 + sigma (1 - 2t) / (2 sqrt(t (1-t))) z
    Assumes times inside (0, 1).  With the entropic coupling Sinkhorn(epsilon = 2 sigma^2) it is the Schroedinger
    bridge of BrownianBridge motion of variance sigma^2.
    Source: Tong et al. 2024 (arXiv 2302.00482); Shi et al. 2023 (arXiv 2303.16852).

    >>> Bridge(0.5).latent.size(torch.tensor([0.5]))
    tensor([0.2500])
    """

    path: AffinePath = field(default_factory=Linear, init=False)
    latent: Latent = field(default_factory=BrownianBridge, init=False)
    sigma: float = 1.0  # of the BrownianBridge motion, in data units; 0 is Linear()

    def __init__(self, sigma: float = 1.0):
        object.__setattr__(self, "sigma", sigma)
        check(self, Bridge)
        require(
            sigma > 0, f"Bridge got sigma={sigma}; without noise it is the straight path: give sigma > 0, or Linear()"
        )
        object.__setattr__(self, "path", Linear())
        object.__setattr__(self, "latent", BrownianBridge(sigma))


@dataclass(frozen=True)
class EncodeDecode:
    """Data to pure noise and back to other data: every state in the middle is Gaussian.

    x_t = cos^2(pi t) (x0 if t <= 1/2 else x1) + sin^2(pi t) z
    Assumes nothing; which x0 belongs to which x1 is forgotten at t = 1/2.
    Source: Albergo, Boffi and Vanden-Eijnden 2023 (arXiv 2303.08797), encoding-decoding.

    >>> EncodeDecode().point(torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1), Rng(0)).x
    tensor([[1., 1.]])
    """

    def point(self, x0: Tensor, x1: Tensor, t: Tensor, rng: Rng | None = None) -> Point:
        check_times(t)
        wide = expand_time(t, x1)
        c, s = torch.cos(math.pi * wide), torch.sin(math.pi * wide)
        end, z = torch.where(wide <= 0.5, x0, x1), required_rng(rng, self).normal(x1)
        return Point(c * c * end + s * s * z, 2 * math.pi * c * s * (z - end))


@dataclass(frozen=True)
class VarianceExploding(AffinePath):
    """The path of variance-exploding diffusion (EDM), with its state kept at unit size.

    x_t = (x1 + sigma x0) / sqrt(1 + sigma^2),  sigma = low^t high^(1-t)
    Assumes data of order one and a standard Gaussian source, which it reaches up to 1/high; at t = 1 noise of size low
    is left.  The usual state is sqrt(1 + sigma^2) x_t.
    Source: Song et al. 2021 (arXiv 2011.13456); Karras et al. 2022, EDM (arXiv 2206.00364).

    >>> float(VarianceExploding().a(torch.zeros(()))) < 0.02
    True
    """

    low: float = 0.002  # noise left at the data end, above 0
    high: float = 80.0  # noise at the source end, above low

    def __post_init__(self) -> None:
        require(
            0 < self.low < self.high,
            f"VarianceExploding got low={self.low}, high={self.high}; the noise grows from low to high: "
            "give 0 < low < high, for example 0.002 and 80",
        )

    def sigma(self, t: Tensor) -> Tensor:
        """The noise level at ``t``, in data units."""
        return torch.exp(math.log(self.low) * t + math.log(self.high) * (1 - t))

    def a(self, t: Tensor) -> Tensor:
        return torch.rsqrt(1 + self.sigma(t) ** 2)

    def b(self, t: Tensor) -> Tensor:
        return self.sigma(t) * self.a(t)

    def coefficients(self, t: Tensor) -> Coefficients:
        a, b, rate = self.a(t), self.b(t), math.log(self.low / self.high)
        return a, b, -rate * a * b * b, rate * b * a * a


@dataclass(frozen=True)
class ConstantAcceleration(AffinePath):
    """The straight line walked with a constant acceleration: initial speed ``speed`` times the mean speed.

    x_t = (1 - a) x0 + a x1,  a = speed t + (1 - speed) t^2,  v = (speed + 2 (1 - speed) t) (x1 - x0)
    Assumes 0 < speed < 2, so that it never stands still; 1 is Linear().
    Source: Park et al. 2024, "Constant Acceleration Flow" (arXiv 2411.00322).

    >>> ConstantAcceleration(1.5).point(torch.zeros(1, 1), torch.ones(1, 1), torch.zeros(1)).v
    tensor([[1.5000]])
    """

    speed: float = 1.5  # initial velocity in units of x1 - x0; 1.5 in the paper

    def __post_init__(self) -> None:
        require(
            0 < self.speed < 2,
            f"ConstantAcceleration got speed={self.speed}; outside (0, 2) the path turns back: 1.5 is usual",
        )

    def a(self, t: Tensor) -> Tensor:
        return t * (self.speed + (1 - self.speed) * t)

    def b(self, t: Tensor) -> Tensor:
        return 1 - self.a(t)

    def coefficients(self, t: Tensor) -> Coefficients:
        a, da = self.a(t), self.speed + 2 * (1 - self.speed) * t
        return a, 1 - a, da, -da


def required_rng(rng: Rng | None, path: object) -> Rng:
    """The random numbers of a path whose states are drawn; refused when there are none."""
    require(
        rng is not None,
        f"{type(path).__name__} was asked for a point without random numbers; its states are drawn: pass rng=",
    )
    assert rng is not None
    return rng
