"""Affine probability paths between source (t = 0) and data (t = 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.modes import check_values
from beeline.core.ranges import Range, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Point, expand_time

Coefficients = tuple[Tensor, Tensor, Tensor, Tensor]


class AffinePath:
    """Base class of affine paths: x_t = a(t) x1 + b(t) x0,  v = a'(t) x1 + b'(t) x0,  a: 0 -> 1 and b: 1 -> 0.

    These are two linear equations, so any two of (x0, x1, x_t, v) determine the others.  A subclass defines ``a`` and
    ``b``, elementwise functions of a tensor; slopes are computed by forward-mode differentiation unless it also
    overrides ``coefficients``.

    Shapes: x, x0, x1 and v are [B,*S]; t is [], [B] or [B,F], in [0, 1].
    """

    def a(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def b(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def finite_slope_time(self, t: Tensor, clip: float) -> Tensor:
        """The time at which slopes are evaluated for ``t``: ``t``, or at most 1 - clip if b'(1) is infinite."""
        return t

    def coefficients(self, t: Tensor) -> Coefficients:
        """a, b, a', b' at ``t``, each with the shape of ``t``."""
        one = torch.ones_like(t)
        pairs: Any = [torch.func.jvp(curve, (t,), (one,)) for curve in (self.a, self.b)]
        (a, da), (b, db) = pairs
        return a, b, da, db

    def time_of_ratio(self, a: Tensor, b: Tensor) -> Tensor:
        """The time t with a(t) : b(t) = a : b, by bisection; the nearest end if the path does not reach the ratio."""
        return bisect_increasing(lambda t: torch.atan2(self.a(t), self.b(t)), torch.atan2(a.double(), b)).to(a.dtype)

    def half_variance_slope(self, t: Tensor) -> Tensor:
        """b(t) b'(t), half the slope of the noise variance; finite even if b' is not."""
        _, b, _, db = self.coefficients(t)
        return b * db

    def point(self, x0: Tensor, x1: Tensor, t: Tensor, rng: Rng | None = None) -> Point:
        """State and velocity [B,*S] at ``t`` ([], [B] or [B,F], in [0, 1]) between ``x0`` and ``x1`` [B,*S].

        ``rng`` is not used.  Raises ValueError for unequal shapes, times outside [0, 1] and infinite slopes.
        """
        require(
            x0.shape == x1.shape,
            f"x0 has shape {tuple(x0.shape)} and x1 {tuple(x1.shape)}; a path connects points one to one: "
            "pass tensors of equal shape",
        )
        check_times(t)
        a, b, da, db = (expand_time(c, x1) for c in self.coefficients(t))
        check_slopes(da, db, t, self)
        return Point(a * x1 + b * x0, da * x1 + db * x0)

    def noise(self, x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """The source end x0 [B,*S] of a state and its velocity."""
        a, b, da, db = (expand_time(c, x) for c in self.coefficients(t))
        return (a * v - da * x) / _nonzero(
            a * db - b * da, t, self, "x0 cannot be computed from a state and its velocity"
        )

    def data(self, x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """The data end x1 [B,*S] of a state and its velocity."""
        a, b, da, db = (expand_time(c, x) for c in self.coefficients(t))
        return (db * x - b * v) / _nonzero(
            a * db - b * da, t, self, "x1 cannot be computed from a state and its velocity"
        )

    def ends(self, x: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The ends (x0, x1), both [B,*S], of a state and its velocity; expected ends if ``v`` is a mean velocity.

        Raises ValueError at times where the two equations are singular.
        """
        return self.noise(x, v, t), self.data(x, v, t)

    def velocity(self, x: Tensor, t: Tensor, *, x0: Tensor | None = None, x1: Tensor | None = None) -> Tensor:
        """The velocity [B,*S] at ``x`` [B,*S] for a given x0, x1 or both.

        Raises ValueError if neither is given, at b = 0 if only x1 is given, and at a = 0 if only x0 is given.
        """
        a, b, da, db = (expand_time(c, x) for c in self.coefficients(t))
        if x0 is not None and x1 is not None:
            return da * x1 + db * x0
        require(
            x0 is not None or x1 is not None,
            "velocity() got neither x0 nor x1; a state and a time alone do not determine it: pass x0=, x1= or both",
        )
        if x1 is not None:
            return da * x1 + db / _nonzero(b, t, self, "the velocity cannot be computed from x1") * (x - a * x1)
        assert x0 is not None
        return db * x0 + da / _nonzero(a, t, self, "the velocity cannot be computed from x0") * (x - b * x0)

    def score(self, x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """grad log p_t(x) = -E[x0 | x_t = x] / b(t) [B,*S] from the mean velocity ``v`` [B,*S].

        Assumes a standard Gaussian source and an independent coupling.  Raises ValueError at b = 0.
        """
        b = expand_time(self.b(t), x)
        return -self.noise(x, v, t) / _nonzero(b, t, self, "the score cannot be computed from the velocity")


@dataclass(frozen=True)
class Linear(AffinePath):
    """The straight path of rectified flow.

    x_t = (1-t) x0 + t x1,  v = x1 - x0
    Source: Liu, Gong and Liu 2022, "Flow Straight and Fast" (arXiv 2209.03003).

    >>> Linear().ends(torch.zeros(1, 2), torch.ones(1, 2), torch.zeros(1))[1]
    tensor([[1., 1.]])
    """

    def a(self, t: Tensor) -> Tensor:
        return t

    def b(self, t: Tensor) -> Tensor:
        return 1 - t

    def coefficients(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return t, 1 - t, one, -one

    def time_of_ratio(self, a: Tensor, b: Tensor) -> Tensor:
        return a / (a + b)

    def noise(self, x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        return x - expand_time(t, x) * v

    def data(self, x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        return x + (1 - expand_time(t, x)) * v


@dataclass(frozen=True)
class Cosine(AffinePath):
    """The trigonometric path, which preserves the variance if source and data have equal variances.

    x_t = sin(pi t/2) x1 + cos(pi t/2) x0;  no time is singular, as a b' - b a' = -pi/2
    Source: Nichol and Dhariwal 2021 (arXiv 2102.09672); Albergo and Vanden-Eijnden 2023 (arXiv 2209.15571).

    >>> Cosine().point(torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1)).x
    tensor([[1., 1.]])
    """

    def a(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t)

    def b(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * (1 - t))  # exactly zero at t = 1, which cos(pi/2) is not

    def coefficients(self, t: Tensor) -> Coefficients:
        a, b, half = self.a(t), self.b(t), math.pi / 2
        return a, b, half * b, -half * a

    def time_of_ratio(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.atan2(a, b) / (math.pi / 2)


@dataclass(frozen=True)
class VariancePreserving(AffinePath):
    """The path of variance-preserving diffusion (DDPM), with diffusion time s = 1 - t.

    a(t) = exp(-T(s)/2),  b(t) = sqrt(1 - a^2),  T(s) = beta_min s + (beta_max - beta_min) s^2 / 2
    Assumes a standard Gaussian source, which it reaches only approximately: a(0) = 0.0066 with the defaults.  The
    slope of b is infinite at t = 1; computing a velocity there raises ValueError.
    Source: Song et al. 2021 (arXiv 2011.13456), as a flow path in Lipman et al. 2023 (arXiv 2210.02747).

    >>> float(VariancePreserving().b(torch.ones(())))
    0.0
    """

    beta_min: float = 0.1  # noise rate at the data end, above 0
    beta_max: float = 20.0  # noise rate at the source end, above beta_min

    def __post_init__(self) -> None:
        require(
            0 < self.beta_min < self.beta_max,
            f"VariancePreserving got beta_min={self.beta_min}, beta_max={self.beta_max}; the noise rate must increase "
            "towards the source: set 0 < beta_min < beta_max, for example 0.1 and 20",
        )

    def _total(self, t: Tensor) -> Tensor:
        s = 1 - t
        return s * (self.beta_min + (self.beta_max - self.beta_min) * s / 2)

    def a(self, t: Tensor) -> Tensor:
        return torch.exp(-self._total(t) / 2)

    def b(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self._total(t)))

    def coefficients(self, t: Tensor) -> Coefficients:
        a, b = self.a(t), self.b(t)
        da = a * (self.beta_min + (self.beta_max - self.beta_min) * (1 - t)) / 2
        return a, b, da, -a * da / b

    def time_of_ratio(self, a: Tensor, b: Tensor) -> Tensor:
        total = torch.log1p((b.double() / a) ** 2)  # T = -ln a^2 with a^2 + b^2 = 1
        span = self.beta_max - self.beta_min
        s = 2 * total / (self.beta_min + (self.beta_min**2 + 2 * span * total).sqrt())  # the root without cancellation
        return (1 - s.nan_to_num(nan=1.0).clamp(max=1.0)).to(a.dtype)

    def finite_slope_time(self, t: Tensor, clip: float) -> Tensor:
        return t.clamp(max=1 - clip)

    def half_variance_slope(self, t: Tensor) -> Tensor:
        a = self.a(t)
        return -a * a * (self.beta_min + (self.beta_max - self.beta_min) * (1 - t)) / 2


@dataclass(frozen=True)
class Rotation(AffinePath):
    """The path of a variance-preserving diffusion, with a time proportional to the angle.

    x_t = cos(phi) x1 + sin(phi) x0,  phi = start (1 - t)
    At t = 0 a share cos(start) of the data is left, as in training; for start = pi/2 it is Cosine.
    Source: Salimans and Ho 2022 (arXiv 2202.00512), angular parameterisation.

    >>> round(float(Rotation(1.5).b(torch.zeros(())).asin()), 4)
    1.5
    """

    start: Annotated[float, Range(above=0, most=1.5708)] = math.pi / 2  # angle at the source, up to pi/2

    def angle(self, t: Tensor) -> Tensor:
        return self.start * (1 - t)

    def a(self, t: Tensor) -> Tensor:
        return torch.cos(self.angle(t))

    def b(self, t: Tensor) -> Tensor:
        return torch.sin(self.angle(t))

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        a, b = self.a(t), self.b(t)
        return a, b, self.start * b, -self.start * a

    def time_of_ratio(self, a: Tensor, b: Tensor) -> Tensor:
        return (1 - torch.atan2(b, a) / self.start).clamp(0, 1)


@dataclass(frozen=True)
class Polynomial(AffinePath):
    """The straight path with a reparameterised time, slow near the source for n > 1.

    x_t = (1 - t^n) x0 + t^n x1
    Assumes n >= 1.  For n > 1 the velocity is zero at t = 0 and does not determine x1 there.
    Source: Lipman et al. 2024, "Flow Matching Guide and Code" (arXiv 2412.06264), polynomial schedulers.

    >>> float(Polynomial(2).a(torch.tensor(0.5)))
    0.25
    """

    n: float = 2.0  # exponent of the time, at least 1; 1 is Linear

    def __post_init__(self) -> None:
        require(self.n >= 1, f"Polynomial got n={self.n}; for n < 1 the slope at t = 0 is infinite: set n to 1 or more")

    def a(self, t: Tensor) -> Tensor:
        return t**self.n

    def b(self, t: Tensor) -> Tensor:
        return 1 - t**self.n

    def coefficients(self, t: Tensor) -> Coefficients:
        a, da = t**self.n, self.n * t ** (self.n - 1)
        return a, 1 - a, da, -da

    def time_of_ratio(self, a: Tensor, b: Tensor) -> Tensor:
        return (a / (a + b)) ** (1 / self.n)

    def noise(self, x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        return x - expand_time(t, x) * v / self.n  # the common factor t^(n-1) cancels: no singular time


@dataclass(frozen=True)
class Affine(AffinePath):
    """An affine path with given coefficient functions; slopes are computed by forward-mode differentiation.

    x_t = a(t) x1 + b(t) x0
    Assumes a(0) = 0, a(1) = 1, b(0) = 1, b(1) = 0 (checked) and coefficients differentiable in between.
    Source: Albergo, Boffi and Vanden-Eijnden 2023, "Stochastic Interpolants" (arXiv 2303.08797).

    >>> Affine(lambda t: t**2, lambda t: 1 - t).point(torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([0.5])).v
    tensor([[1.]])
    """

    rise: Callable[[Tensor], Tensor]  # a, from 0 to 1
    fall: Callable[[Tensor], Tensor]  # b, from 1 to 0

    def __post_init__(self) -> None:
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        got = [*self.rise(ends).tolist(), *self.fall(ends).tolist()]
        require(
            all(abs(g - w) < 1e-2 for g, w in zip(got, (0, 1, 1, 0), strict=True)),
            f"Affine got a(0), a(1), b(0), b(1) = {got}; a path must start at the source and end at the data: "
            "use a with a(0)=0, a(1)=1 and b with b(0)=1, b(1)=0",
        )

    def a(self, t: Tensor) -> Tensor:
        return self.rise(t)

    def b(self, t: Tensor) -> Tensor:
        return self.fall(t)


def bisect_increasing(function: Callable[[Tensor], Tensor], value: Tensor, rounds: int = 60) -> Tensor:
    """u in [0, 1] with function(u) = value for an increasing function, elementwise, by bisection in float64."""
    wanted = value.double()
    low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
    for _ in range(rounds):
        middle = (low + high) / 2
        below = function(middle) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return ((low + high) / 2).to(value.dtype)


def check_times(t: Tensor) -> None:
    """Raise ValueError for times outside [0, 1] and NaN."""
    if not t.numel():
        return
    check_values(
        ((t >= 0) & (t <= 1)).all(),
        lambda: (
            f"times range from {float(t.min()):.6g} to {float(t.max()):.6g}, outside [0, 1]; t = 0 is the source and "
            "t = 1 the data: divide times that run to 1000, and use 1 - sigma for noise levels"
        ),
    )


def check_slopes(da: Tensor, db: Tensor, t: Tensor, path: object) -> None:
    """Raise ValueError for a time at which the slope of ``path`` is infinite."""
    good = (da.isfinite() & db.isfinite()).flatten()
    check_values(
        good.all(),
        lambda: (
            f"the slope of {path} is infinite at t = {t.flatten()[~good][:1].tolist()}; there is no velocity at that "
            "time: use times inside the open interval, for example up to 1 - 1e-4"
        ),
    )


def _nonzero(divisor: Tensor, t: Tensor, path: object, what: str) -> Tensor:
    """The divisor; raises ValueError if it is zero."""
    good = (divisor != 0).flatten()
    check_values(
        good.all(),
        lambda: (
            f"{what} at t = {t.flatten()[~good][:1].tolist()} on {path}; the equations are singular there: use a time "
            "inside (0, 1), or a prediction with a clip"
        ),
    )
    return divisor
