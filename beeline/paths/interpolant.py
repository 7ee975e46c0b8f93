"""Stochastic interpolants, bridges, the variance-exploding path and the constant-acceleration path."""

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
    """The latent noise of a Brownian bridge.

    g(t) = scale sqrt(t (1-t))
    Assumes times inside (0, 1): g' is infinite at both ends.
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
    """A latent noise with a finite slope at every time.

    g(t) = scale t (1-t)
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
    """A latent noise with slope zero at both ends.

    g(t) = scale sin^2(pi t)
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
    """A stochastic interpolant: an affine path with latent noise between its ends.

    x_t = a(t) x1 + b(t) x0 + g(t) z,  v = a' x1 + b' x0 + g' z,  z ~ N(0, I)
    Any source and coupling.  E[v | x] transports the densities; with eta = E[z | x], which the objective LatentNoise
    learns, the score is -eta / g.
    Source: Albergo, Boffi and Vanden-Eijnden 2023, "Stochastic Interpolants" (arXiv 2303.08797).

    >>> Interpolant(latent=Parabola()).point(torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1), Rng(0)).x
    tensor([[1., 1.]])
    """

    path: AffinePath = field(default_factory=Linear)
    latent: Latent = field(default_factory=Parabola)

    def point(self, x0: Tensor, x1: Tensor, t: Tensor, rng: Rng | None = None) -> Point:
        return self.point_with_noise(x0, x1, t, required_rng(rng, self).normal(x1))

    def point_with_noise(self, x0: Tensor, x1: Tensor, t: Tensor, z: Tensor) -> Point:
        """State and velocity for the latent noise ``z`` [B,*S]."""
        x, v = self.path.point(x0, x1, t)
        size, slope = self.latent.size(t), self.latent.slope(t)
        check_slopes(slope, slope, t, self)
        return Point(x + expand_time(size, x) * z, v + expand_time(slope, x) * z)

    def score(self, eta: Tensor, t: Tensor) -> Tensor:
        """grad log p_t(x) [B,*S] from eta = E[z | x] [B,*S]; raises ValueError where g(t) = 0."""
        size = self.latent.size(t)
        require(
            torch.compiler.is_compiling() or bool((size > 8 * torch.finfo(size.dtype).eps).all()),
            f"the score of {type(self).__name__} was computed at a time where g(t) = 0; -eta / g is undefined there: "
            "use a time inside (0, 1)",
        )
        return -eta / expand_time(size, eta)


@dataclass(frozen=True)
class Bridge(Interpolant):
    """The Brownian bridge between two points, as in Schroedinger bridge matching.

    x_t = (1-t) x0 + t x1 + sigma sqrt(t (1-t)) z,  v = x1 - x0 + sigma (1 - 2t) / (2 sqrt(t (1-t))) z
    Assumes times inside (0, 1).  With the entropic coupling Sinkhorn(epsilon = 2 sigma^2) it is the Schroedinger
    bridge of Brownian motion with variance sigma^2.
    Source: Tong et al. 2024 (arXiv 2302.00482); Shi et al. 2023 (arXiv 2303.16852).

    >>> Bridge(0.5).latent.size(torch.tensor([0.5]))
    tensor([0.2500])
    """

    path: AffinePath = field(default_factory=Linear, init=False)
    latent: Latent = field(default_factory=BrownianBridge, init=False)
    sigma: float = 1.0  # standard deviation of the Brownian motion at time 1, in data units, above 0

    def __init__(self, sigma: float = 1.0):
        object.__setattr__(self, "sigma", sigma)
        check(self, Bridge)
        require(
            sigma > 0,
            f"Bridge got sigma={sigma}; a Brownian bridge has a positive variance: set sigma > 0, or use Linear()",
        )
        object.__setattr__(self, "path", Linear())
        object.__setattr__(self, "latent", BrownianBridge(sigma))


@dataclass(frozen=True)
class EncodeDecode:
    """Encoding-decoding: from x0 to pure noise at t = 1/2 and from there to x1.

    x_t = cos^2(pi t) (x0 if t <= 1/2 else x1) + sin^2(pi t) z
    The state at t = 1/2 is independent of both ends.
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
    """The path of variance-exploding diffusion (EDM), with the state scaled to unit variance.

    x_t = (x1 + sigma x0) / sqrt(1 + sigma^2),  sigma = low^t high^(1-t)
    Assumes data of order one and a standard Gaussian source, which it reaches up to 1/high; noise of size low remains
    at t = 1.  The unscaled state of the paper is sqrt(1 + sigma^2) x_t.
    Source: Song et al. 2021 (arXiv 2011.13456); Karras et al. 2022, EDM (arXiv 2206.00364).

    >>> float(VarianceExploding().a(torch.zeros(()))) < 0.02
    True
    """

    low: float = 0.002  # noise level at the data end, above 0
    high: float = 80.0  # noise level at the source end, above low

    def __post_init__(self) -> None:
        require(
            0 < self.low < self.high,
            f"VarianceExploding got low={self.low}, high={self.high}; the noise level must increase from the data to "
            "the source: set 0 < low < high, for example 0.002 and 80",
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
    """The straight line with constant acceleration.

    x_t = (1 - a) x0 + a x1,  a = speed t + (1 - speed) t^2,  v = (speed + 2 (1 - speed) t) (x1 - x0)
    Assumes 0 < speed < 2, so that the velocity never vanishes; 1 is Linear().
    Source: Park et al. 2024, "Constant Acceleration Flow" (arXiv 2411.00322).

    >>> ConstantAcceleration(1.5).point(torch.zeros(1, 1), torch.ones(1, 1), torch.zeros(1)).v
    tensor([[1.5000]])
    """

    speed: float = 1.5  # initial velocity in units of x1 - x0; 1.5 in the paper

    def __post_init__(self) -> None:
        require(
            0 < self.speed < 2,
            f"ConstantAcceleration got speed={self.speed}; outside (0, 2) the path reverses its direction: set a speed "
            "inside, 1.5 is usual",
        )

    def a(self, t: Tensor) -> Tensor:
        return t * (self.speed + (1 - self.speed) * t)

    def b(self, t: Tensor) -> Tensor:
        return 1 - self.a(t)

    def coefficients(self, t: Tensor) -> Coefficients:
        a, da = self.a(t), self.speed + 2 * (1 - self.speed) * t
        return a, 1 - a, da, -da


def required_rng(rng: Rng | None, path: object) -> Rng:
    """The generator of a random path; raises ValueError if it is None."""
    require(
        rng is not None,
        f"{type(path).__name__}.point got rng=None; the path is random: pass rng=Rng(seed)",
    )
    assert rng is not None
    return rng
