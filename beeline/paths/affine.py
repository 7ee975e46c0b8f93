"""Probability paths: how a source point becomes a data point between t = 0 and t = 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.modes import check_values
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Point, expand_time

Coefficients = tuple[Tensor, Tensor, Tensor, Tensor]


class AffinePath:
    """x_t = a(t) x1 + b(t) x0,  v = a'(t) x1 + b'(t) x0,  with a: 0 -> 1 and b: 1 -> 0.

    Two linear equations: any two of (x0, x1, x_t, v) give the rest.  A subclass gives ``a`` and ``b`` (tensor to
    tensor, elementwise); the slopes follow by forward-mode differentiation unless ``coefficients`` gives them.
    """

    def a(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def b(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def finite_slope_time(self, t: Tensor, clip: float) -> Tensor:
        """Where slopes are read for ``t``: there, or at most at 1 - clip where b'(1) is infinite."""
        return t

    def coefficients(self, t: Tensor) -> Coefficients:
        """a, b, a', b' at ``t``, each with its shape."""
        one = torch.ones_like(t)
        pairs: Any = [torch.func.jvp(curve, (t,), (one,)) for curve in (self.a, self.b)]
        (a, da), (b, db) = pairs
        return a, b, da, db

    def half_variance_slope(self, t: Tensor) -> Tensor:
        """b(t) b'(t), half the slope of the noise variance; finite even where b' is not."""
        _, b, _, db = self.coefficients(t)
        return b * db

    def point(self, x0: Tensor, x1: Tensor, t: Tensor, rng: Rng | None = None) -> Point:
        """The state and slope at ``t`` ([], [B] or [B,F], in [0,1]) between ``x0`` and ``x1`` [B,*S]."""
        require(
            x0.shape == x1.shape,
            f"x0 has shape {tuple(x0.shape)} and x1 {tuple(x1.shape)}; a path joins points one to one: pair them first",
        )
        check_times(t)
        a, b, da, db = (expand_time(c, x1) for c in self.coefficients(t))
        check_slopes(da, db, t, self)
        return Point(a * x1 + b * x0, da * x1 + db * x0)

    def noise(self, x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """The source end x0 implied by a state and its velocity."""
        a, b, da, db = (expand_time(c, x) for c in self.coefficients(t))
        return (a * v - da * x) / _safe(a * db - b * da, t, self, "a state and its velocity do not give the source end")

    def data(self, x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """The data end x1 implied by a state and its velocity."""
        a, b, da, db = (expand_time(c, x) for c in self.coefficients(t))
        return (db * x - b * v) / _safe(a * db - b * da, t, self, "a state and its velocity do not give the data end")

    def ends(self, x: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, x1) implied by a state and its velocity; expected ends when ``v`` is a mean velocity."""
        return self.noise(x, v, t), self.data(x, v, t)

    def velocity(self, x: Tensor, t: Tensor, *, x0: Tensor | None = None, x1: Tensor | None = None) -> Tensor:
        """The velocity at ``x`` [B,*S] implied by one end (or both).

        A data prediction says nothing about the velocity where b = 0, nor a noise prediction where a = 0: those
        times are refused (ValueError).
        """
        a, b, da, db = (expand_time(c, x) for c in self.coefficients(t))
        if x0 is not None and x1 is not None:
            return da * x1 + db * x0
        require(
            x0 is not None or x1 is not None,
            "velocity was asked for without an end; pass x0=, x1= or both beside the state and the time",
        )
        if x1 is not None:
            return da * x1 + db / _safe(b, t, self, "a data end does not give a velocity") * (x - a * x1)
        assert x0 is not None
        return db * x0 + da / _safe(a, t, self, "a source end does not give a velocity") * (x - b * x0)

    def score(self, x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """grad log p_t(x) = -E[x0 | x_t = x] / b(t), for a standard Gaussian source and an independent coupling."""
        b = expand_time(self.b(t), x)
        return -self.noise(x, v, t) / _safe(b, t, self, "a velocity does not give a score")


@dataclass(frozen=True)
class Linear(AffinePath):
    """The straight path of rectified flow.

    x_t = (1-t) x0 + t x1,  v = x1 - x0
    Assumes nothing; any two of (x0, x1, x_t, v) determine the others except at the far ends.
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

    def noise(self, x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        return x - expand_time(t, x) * v

    def data(self, x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        return x + (1 - expand_time(t, x)) * v


@dataclass(frozen=True)
class Cosine(AffinePath):
    """The trigonometric path: it keeps the variance when source and data have the same.

    x_t = sin(pi t/2) x1 + cos(pi t/2) x0
    Assumes nothing; no time is singular, since a b' - b a' = -pi/2 everywhere.
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


@dataclass(frozen=True)
class VariancePreserving(AffinePath):
    """The path of variance-preserving diffusion (DDPM), with diffusion time s = 1 - t.

    a(t) = exp(-T(s)/2),  b(t) = sqrt(1 - a^2),  T(s) = beta_min s + (beta_max - beta_min) s^2 / 2
    Assumes a standard Gaussian source, which it reaches only approximately: a(0) = 0.0066 with the defaults.
    The slope of b is infinite at t = 1: that time is refused where a slope is asked for.
    Source: Song et al. 2021 (arXiv 2011.13456), as a flow path in Lipman et al. 2023 (arXiv 2210.02747).

    >>> float(VariancePreserving().b(torch.ones(())))
    0.0
    """

    beta_min: float = 0.1  # noise rate at the data end, above 0
    beta_max: float = 20.0  # noise rate at the source end, above beta_min

    def __post_init__(self) -> None:
        require(
            0 < self.beta_min < self.beta_max,
            f"VariancePreserving got beta_min={self.beta_min}, beta_max={self.beta_max}; "
            "the noise rate has to rise: give 0 < beta_min < beta_max, for example 0.1 and 20",
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

    def finite_slope_time(self, t: Tensor, clip: float) -> Tensor:
        return t.clamp(max=1 - clip)

    def half_variance_slope(self, t: Tensor) -> Tensor:
        a = self.a(t)
        return -a * a * (self.beta_min + (self.beta_max - self.beta_min) * (1 - t)) / 2


@dataclass(frozen=True)
class Polynomial(AffinePath):
    """The straight path walked with a changed clock: slow at the source end for n > 1.

    x_t = (1 - t^n) x0 + t^n x1
    Assumes n >= 1; for n > 1 the velocity vanishes at t = 0 and does not give the data end there.
    Source: Lipman et al. 2024, "Flow Matching Guide and Code" (arXiv 2412.06264), polynomial schedulers.

    >>> float(Polynomial(2).a(torch.tensor(0.5)))
    0.25
    """

    n: float = 2.0  # power of the clock, at least 1; 1 is Linear

    def __post_init__(self) -> None:
        require(
            self.n >= 1, f"Polynomial got n={self.n}; below 1 the slope at t=0 is infinite: give a power of at least 1"
        )

    def a(self, t: Tensor) -> Tensor:
        return t**self.n

    def b(self, t: Tensor) -> Tensor:
        return 1 - t**self.n

    def coefficients(self, t: Tensor) -> Coefficients:
        a, da = t**self.n, self.n * t ** (self.n - 1)
        return a, 1 - a, da, -da

    def noise(self, x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        return x - expand_time(t, x) * v / self.n  # the common factor t^(n-1) cancels: no singular time


@dataclass(frozen=True)
class Affine(AffinePath):
    """Any affine path from its two coefficients; slopes come from forward-mode differentiation.

    x_t = a(t) x1 + b(t) x0
    Assumes a(0)=0, a(1)=1, b(0)=1, b(1)=0, differentiable in between; this is checked when it is made.
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
            f"Affine got a(0), a(1), b(0), b(1) = {got}; a path goes from the source to the data: "
            "give a with a(0)=0, a(1)=1 and b with b(0)=1, b(1)=0",
        )

    def a(self, t: Tensor) -> Tensor:
        return self.rise(t)

    def b(self, t: Tensor) -> Tensor:
        return self.fall(t)


def check_times(t: Tensor) -> None:
    """Refuse times outside [0, 1] (and NaN)."""
    if not t.numel():
        return
    check_values(
        ((t >= 0) & (t <= 1)).all(),
        lambda: (
            f"a time is outside [0, 1] (lowest {float(t.min()):.6g}, highest {float(t.max()):.6g}); "
            "t = 0 is the source and t = 1 the data: divide times that run to 1000, and use 1 - sigma for noise levels"
        ),
    )


def check_slopes(da: Tensor, db: Tensor, t: Tensor, path: object) -> None:
    """Refuse a time at which the slope of ``path`` is infinite."""
    good = (da.isfinite() & db.isfinite()).flatten()
    check_values(
        good.all(),
        lambda: (
            f"the slope of {path} is infinite at t = {t.flatten()[~good][:1].tolist()}; no velocity can be learned "
            "there: draw times inside the open interval, for example up to 1 - 1e-4"
        ),
    )


def _safe(divisor: Tensor, t: Tensor, path: object, what: str) -> Tensor:
    good = (divisor != 0).flatten()
    check_values(
        good.all(),
        lambda: (
            f"{what} at t = {t.flatten()[~good][:1].tolist()} on {path}; use a time inside (0, 1), "
            "or a prediction with a clip"
        ),
    )
    return divisor
