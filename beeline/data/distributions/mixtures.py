"""Gaussian mixtures and two moons, with exact density, score and velocity field."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.data.distributions.checkerboard import Checkerboard
from beeline.data.distributions.distribution import (
    Distribution,
    ExactField,
    Marginal,
    allowed,
    choose,
    numbers,
    plain,
    tuples,
)

__all__ = ["Checkerboard", "Gaussian", "GaussianMixture", "Distribution", "ExactField", "Mixture", "TwoMoons"]


class Parts(NamedTuple):
    """The components of a Gaussian mixture as float64 tensors on the CPU."""

    weights: Tensor  # [K], summing to 1
    means: Tensor  # [K,D]
    variances: Tensor  # [K,D], along the columns of the bases
    bases: Tensor | None  # [K,D,D] orthonormal; None for the axes
    labels: Tensor | None  # [K] int64


class Mixture(Distribution):
    """Base of Gaussian mixtures.  A subclass gives ``parts``, which are cached."""

    def parts(self) -> Parts:
        raise NotImplementedError

    @property
    def dim(self) -> int:
        return _parts(self, torch.float64, torch.device("cpu")).means.shape[1]

    def sample_labelled(self, n: int, rng: Rng, label: int | None) -> tuple[Tensor, Tensor | None]:
        weights, means, variances, bases, labels = _parts(self, torch.float64, torch.device("cpu"))
        if label is not None and labels is not None:
            weights = weights * (labels == label)
        k = choose(weights, n, rng.fork("component"))
        noise = rng.fork("noise").normal(means.new_empty(n, means.shape[1])) * variances[k].sqrt()
        if bases is not None:
            noise = torch.einsum("nde,ne->nd", bases[k], noise)
        return means[k] + noise, None if labels is None else labels[k]

    def marginal(self, x: Tensor, a: Tensor, b: Tensor, cond: Cond = None) -> Marginal:
        weights, means, variances, bases, labels = _parts(self, x.dtype, x.device)
        a, b = a[:, None, None], b[:, None, None]
        apart = x[:, None] - a * means  # [B,K,D]
        if bases is not None:
            apart = torch.einsum("bkd,kde->bke", apart, bases)
        spread = a * a * variances + b * b
        pull = apart / spread
        mass = weights.log().expand(len(x), -1)
        if (mask := allowed(self, labels, cond, len(x))) is not None:
            mass = torch.where(mask, mass, -math.inf).log_softmax(1)
        logs = mass - ((apart * pull + spread.log()).sum(2) + x.shape[1] * math.log(2 * math.pi)) / 2
        share = logs.softmax(1)  # [B,K]
        shift = a * variances * pull
        if bases is not None:
            pull, shift = (torch.einsum("bke,kde->bkd", part, bases) for part in (pull, shift))
        score, shift = (torch.einsum("bk,bkd->bd", share, part) for part in (-pull, shift))
        return Marginal(logs.logsumexp(1), score, share @ means + shift)

    def moments(self) -> tuple[Tensor, Tensor]:
        weights, means, variances, bases, _ = _parts(self, torch.float64, torch.device("cpu"))
        mean = weights @ means
        inner = torch.diag_embed(variances)
        if bases is not None:
            inner = bases @ inner @ bases.mT
        outer = (means - mean)[:, :, None] * (means - mean)[:, None]
        return mean, (weights[:, None, None] * (inner + outer)).sum(0)


@dataclass(frozen=True)
class Gaussian(Mixture):
    """A Gaussian distribution with any covariance.

    x1 ~ N(mean, covariance);  v(x, t) = a' mean + (a a' S + b b' I) (a^2 S + b^2 I)^-1 (x - a mean)
    Assumes a positive definite covariance S.
    Source: Lipman et al. 2023 (arXiv 2210.02747), Gaussian conditional paths.

    >>> Gaussian((1.0, 2.0), std=(0.5, 2.0)).field()(torch.zeros(1, 2), torch.zeros(1))
    tensor([[1., 2.]])
    """

    mean: tuple[float, ...] = (0.0,)  # [D]
    std: float | tuple[float, ...] | None = None  # one, or [D]; above 0; 1 when no covariance is given
    covariance: tuple[tuple[float, ...], ...] | None = None  # [D,D], symmetric, positive definite

    def __post_init__(self) -> None:
        mean = numbers(self.mean, "Gaussian", "mean", 1)
        object.__setattr__(self, "mean", tuple(mean.tolist()))
        require(
            self.std is None or self.covariance is None,
            "Gaussian got a std and a covariance, which exclude each other; give one of them",
        )
        if self.std is not None:
            std = numbers(self.std, "Gaussian", "std", np.ndim(plain(self.std)))
            require(
                std.ndim < 2 and std.shape in ((), mean.shape) and bool((std > 0).all()),
                f"Gaussian got std={self.std} for {len(mean)} coordinates; a standard deviation is above 0: "
                "give one number, or one per coordinate",
            )
            object.__setattr__(self, "std", tuples(std))
        if self.covariance is not None:
            cov = numbers(self.covariance, "Gaussian", "covariance", 2)
            square = cov.shape == (len(mean), len(mean)) and np.allclose(cov, cov.T)
            require(
                square and bool((np.linalg.eigvalsh(cov) > 0).all()),
                f"Gaussian got the covariance {cov.tolist()} for {len(mean)} coordinates; it has to be a symmetric "
                "positive definite matrix [D,D]: check it, or give std= for independent coordinates",
            )
            object.__setattr__(self, "covariance", tuples(cov))

    def parts(self) -> Parts:
        mean = torch.tensor([self.mean], dtype=torch.float64)
        one = torch.ones(1, dtype=torch.float64)
        if self.covariance is None:
            std = torch.tensor(1.0 if self.std is None else self.std, dtype=torch.float64)
            return Parts(one, mean, std.square().expand_as(mean), None, None)
        values, basis = torch.linalg.eigh(torch.tensor(self.covariance, dtype=torch.float64))
        return Parts(one, mean, values[None], basis[None], None)


@dataclass(frozen=True)
class GaussianMixture(Mixture):
    """A mixture of isotropic Gaussians.

    p(x) = sum_k w_k N(x; m_k, s_k^2 I);
    v(x, t) = sum_k r_k(x, t) [a' m_k + (a a' s_k^2 + b b') / (a^2 s_k^2 + b^2) (x - a m_k)], r_k the posterior of k
    With ``labels`` the class of a component is a condition, whose null is the number of classes.
    Source: Albergo, Boffi and Vanden-Eijnden 2023 (arXiv 2303.08797), Gaussian mixtures.

    >>> GaussianMixture([[-2.0], [2.0]], 0.5).sample(3, Rng(0)).shape
    torch.Size([3, 1])
    """

    means: tuple[tuple[float, ...], ...]  # [K,D]
    stds: float | tuple[float, ...] = 1.0  # one, or [K]; above 0
    weights: tuple[float, ...] | None = None  # [K], non-negative, of any sum; None for equal ones
    labels: tuple[int, ...] | None = None  # [K], the class of each component, 0 .. classes-1

    def __post_init__(self) -> None:
        means = numbers(self.means, "GaussianMixture", "means", 2)
        count = len(means)
        object.__setattr__(self, "means", tuples(means))
        stds = numbers(self.stds, "GaussianMixture", "stds", np.ndim(plain(self.stds)))
        require(
            stds.ndim < 2 and stds.shape in ((), (count,)) and bool((stds > 0).all()),
            f"GaussianMixture got stds={self.stds} for {count} means; a standard deviation is above 0: "
            "give one number, or one per mean",
        )
        object.__setattr__(self, "stds", tuples(stds))
        if self.weights is not None:
            weights = numbers(self.weights, "GaussianMixture", "weights", 1)
            require(
                weights.shape == (count,) and bool((weights >= 0).all()) and weights.sum() > 0,
                f"GaussianMixture got weights={self.weights} for {count} means; "
                "give one non-negative number per mean, not all of them 0",
            )
            object.__setattr__(self, "weights", tuples(weights))
        if self.labels is not None:
            labels = numbers(self.labels, "GaussianMixture", "labels", 1)
            whole = set(labels.tolist()) == set(range(int(labels.max()) + 1))
            require(
                labels.shape == (count,) and whole,
                f"GaussianMixture got labels={self.labels} for {count} means; "
                "give one whole number per mean, so that every class from 0 to the highest appears",
            )
            object.__setattr__(self, "labels", tuple(int(v) for v in labels))

    @property
    def classes(self) -> int:
        return 0 if self.labels is None else max(self.labels) + 1

    def parts(self) -> Parts:
        means = torch.tensor(self.means, dtype=torch.float64)
        stds = torch.tensor(self.stds, dtype=torch.float64).expand(len(means))
        weights = torch.tensor(self.weights or (1.0,) * len(means), dtype=torch.float64)
        labels = None if self.labels is None else torch.tensor(self.labels)
        return Parts(weights / weights.sum(), means, stds.square()[:, None].expand_as(means), None, labels)

    @classmethod
    def ring(cls, k: int = 8, radius: float = 4.0, std: float = 0.3, labelled: bool = False) -> GaussianMixture:
        """``k`` equal modes evenly on a circle in the plane, each a class of its own when ``labelled``."""
        angles = 2 * math.pi * np.arange(k) / k
        means = radius * np.stack([np.cos(angles), np.sin(angles)], 1)
        return cls(means, std, labels=tuple(range(k)) if labelled else None)  # type: ignore[arg-type]

    @classmethod
    def grid(cls, side: int = 5, spacing: float = 2.0, std: float = 0.1) -> GaussianMixture:
        """``side`` x ``side`` equal modes on a square grid centred at the origin."""
        ticks = spacing * (np.arange(side) - (side - 1) / 2)
        return cls(np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2), std)  # type: ignore[arg-type]


@dataclass(frozen=True)
class TwoMoons(Mixture):
    """Two interleaved half circles in the plane, blurred by Gaussian noise, centred at the origin.

    x1 = scale (c_m(angle) - (1/2, 1/4)) + scale std z,  angle ~ U[0, pi],  m the moon, which is the label;
    c_0 = (cos, sin),  c_1 = (1 - cos, 1/2 - sin)
    Assumes std >= 0.01.  Sampling is exact.  The density has no closed form: it is the integral over the angle by
    Gauss-Legendre quadrature with nodes closer than the noise is wide, good to 1e-9 (relative, near the moons);
    score and velocity are exact for that density.
    Source: scikit-learn's make_moons, with the two arcs drawn evenly and independently.

    >>> TwoMoons().sample(5, Rng(0)).shape
    torch.Size([5, 2])
    """

    std: float = 0.1  # of the noise, in units of the radius; 0.05 to 0.2 is usual
    scale: float = 2.0  # the radius

    def __post_init__(self) -> None:
        require(
            0.01 <= self.std < math.inf and 0 < self.scale < math.inf,
            f"TwoMoons got std={self.std}, scale={self.scale}; thinner moons than std=0.01 have no usable density: "
            "give std of at least 0.01 and a scale above 0",
        )

    @property
    def classes(self) -> int:
        return 2

    def curve(self, angle: Tensor, moon: Tensor) -> Tensor:
        """The point of a moon (0 or 1) at an angle: [...,2]."""
        x = torch.where(moon == 0, angle.cos(), 1 - angle.cos()) - 0.5
        y = torch.where(moon == 0, angle.sin(), 0.5 - angle.sin()) - 0.25
        return self.scale * torch.stack([x, y], -1)

    def parts(self) -> Parts:
        nodes, weights = np.polynomial.legendre.leggauss(max(32, math.ceil(2 * math.pi / self.std)))
        angles = torch.from_numpy(math.pi * (nodes + 1) / 2).repeat(2)
        moon = torch.arange(2).repeat_interleave(len(nodes))
        width = torch.full((len(angles), 2), (self.scale * self.std) ** 2, dtype=torch.float64)
        return Parts(torch.from_numpy(weights / 4).repeat(2), self.curve(angles, moon), width, None, moon)

    def sample_labelled(self, n: int, rng: Rng, label: int | None) -> tuple[Tensor, Tensor | None]:
        like = torch.empty(n, 2, dtype=torch.float64)
        moon = rng.fork("component").integers(2, n) if label is None else torch.full((n,), label)
        centre = self.curve(math.pi * rng.fork("angle").uniform(n, like), moon)
        return centre + self.scale * self.std * rng.fork("noise").normal(like), moon


@lru_cache(maxsize=64)
def _parts(distribution: Mixture, dtype: torch.dtype, device: torch.device) -> Parts:
    # kept tensors must be ordinary ones, whatever mode the first caller is in
    with torch.inference_mode(False):
        weights, means, variances, bases, labels = distribution.parts()
        w, m, v = (part.to(device, dtype) for part in (weights, means, variances))
        basis = None if bases is None else bases.to(device, dtype)
        return Parts(w, m, v, basis, None if labels is None else labels.to(device))
