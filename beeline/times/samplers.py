"""Distributions of training times in [0, 1].

A sampler called with (n, like, rng) returns [n] times in the dtype and on the device of ``like``; ``log_prob(t)`` is
the log density in nats, with the shape of ``t``; ``quantile(u)`` maps u in [0, 1] to times.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.paths.affine import bisect_increasing


@dataclass(frozen=True)
class Uniform:
    """Uniform training times.

    p(t) = 1 on [0, 1]
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003).

    >>> Uniform()(4, torch.empty(0), Rng(0)).shape
    torch.Size([4])
    """

    def quantile(self, u: Tensor) -> Tensor:
        return u

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        return clamp_to_open_interval(rng.uniform(n, like))

    def log_prob(self, t: Tensor) -> Tensor:
        return _inside(t, torch.zeros_like(t))


@dataclass(frozen=True)
class LogitNormal:
    """Logit-normal training times: more of the middle, density zero at both ends.

    t = sigmoid(z),  z ~ N(mean, std^2);  p(t) = N(logit t; mean, std^2) / (t (1-t))
    A positive mean shifts the times towards the data; a mean m of the noise level sigma is -m here.
    Source: Esser et al. 2024, Stable Diffusion 3 (arXiv 2403.03206).

    >>> bool((LogitNormal()(100, torch.empty(0), Rng(0)) < 1).all())
    True
    """

    mean: float = 0.0  # of the logit; -1 to 1 is usual
    std: float = 1.0  # of the logit, above 0

    def __post_init__(self) -> None:
        require(self.std > 0, f"LogitNormal got std={self.std}; a standard deviation must be above 0: 1.0 is usual")

    def quantile(self, u: Tensor) -> Tensor:
        return self._at(torch.special.ndtri(u))

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        return self._at(rng.normal(like.new_empty(n)))

    def _at(self, z: Tensor) -> Tensor:
        t = torch.sigmoid(self.mean + self.std * z)
        return clamp_to_open_interval(t)

    def log_prob(self, t: Tensor) -> Tensor:
        z = (torch.logit(t) - self.mean) / self.std
        value = -z * z / 2 - math.log(self.std * math.sqrt(2 * math.pi)) - torch.log(t * (1 - t))
        return torch.where((t > 0) & (t < 1), value, torch.full_like(t, -math.inf))


@dataclass(frozen=True)
class UShaped:
    """U-shaped training times for reflow: more samples near both ends.

    p(t) proportional to exp(a t) + exp(a (1-t)) = 2 exp(a/2) cosh(a (t - 1/2))
    Assumes a deterministic coupling (reflow pairs), for which the middle times are easy.
    Source: Lee, Lin and Fanti 2024, "Improving the Training of Rectified Flows" (arXiv 2405.20320).

    >>> UShaped(4.0)(2, torch.empty(0), Rng(0)).shape
    torch.Size([2])
    """

    a: float = 4.0  # 0 is uniform; 4 in the paper

    def __post_init__(self) -> None:
        require(self.a >= 0, f"UShaped got a={self.a}; with a < 0 the density is not U-shaped: set a >= 0, 4 is usual")

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        return self.quantile(rng.uniform(n, like))

    def quantile(self, u: Tensor) -> Tensor:
        if self.a == 0:
            return u
        # F(t) = 1/2 + sinh(a (t - 1/2)) / (2 sinh(a/2)), inverted
        t = 0.5 + torch.asinh((2 * u - 1) * math.sinh(self.a / 2)) / self.a
        return clamp_to_open_interval(t)

    def log_prob(self, t: Tensor) -> Tensor:
        if self.a == 0:
            return _inside(t, torch.zeros_like(t))
        norm = math.log(self.a / (2 * math.sinh(self.a / 2)))
        return _inside(t, torch.log(torch.cosh(self.a * (t - 0.5))) + norm)


@dataclass(frozen=True)
class Mode:
    """Mode sampling: more (scale above 0) or fewer middle times, with a positive density at both ends.

    t = u + scale (cos^2(pi u/2) - 1 + u),  u uniform;  p(t) = 1 / |dt/du|
    Assumes -1 <= scale <= 2/(pi - 2), where t is monotone in u.  The density is symmetric about 1/2.
    Source: Esser et al. 2024, Stable Diffusion 3 (arXiv 2403.03206), mode sampling with heavy tails.

    >>> float(Mode(1.29).log_prob(torch.tensor(0.5))) > 0
    True
    """

    scale: float = 1.29  # 0 is uniform; 1.29 in the paper; -1 to 1.75

    def __post_init__(self) -> None:
        bound = 2 / (math.pi - 2)
        require(
            -1 <= self.scale <= bound,
            f"Mode got scale={self.scale}; outside [-1, {bound:.4f}] the time is not monotone in u: set a scale "
            "inside, 1.29 is usual",
        )

    def quantile(self, u: Tensor) -> Tensor:
        return clamp_to_open_interval(u + self.scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u))

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        return self.quantile(rng.uniform(n, like))

    def log_prob(self, t: Tensor) -> Tensor:
        u = bisect_increasing(self.quantile, t)
        return _inside(t, -torch.log(1 + self.scale * (1 - math.pi / 2 * torch.sin(math.pi * u))))


@dataclass(frozen=True)
class CosMap:
    """Times on the straight path with the log-SNR distribution of uniform times on the cosine path.

    t = tan(pi u/2) / (1 + tan(pi u/2)),  u uniform;  p(t) = 2 / (pi (1 - 2 t + 2 t^2))
    Source: Esser et al. 2024, Stable Diffusion 3 (arXiv 2403.03206), CosMap.

    >>> round(float(CosMap().log_prob(torch.tensor(0.5)).exp()), 4)
    1.2732
    """

    def quantile(self, u: Tensor) -> Tensor:
        s, c = torch.sin(math.pi / 2 * u), torch.sin(math.pi / 2 * (1 - u))
        return s / (s + c)

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        return self.quantile(rng.uniform(n, like))

    def log_prob(self, t: Tensor) -> Tensor:
        return _inside(t, -torch.log(math.pi / 2 * (1 - 2 * t + 2 * t * t)))


@dataclass(frozen=True)
class Bifocal:
    """Bifocal training times: a mixture of two truncated exponentials, one at each end.

    p(t) = share r exp(-r t) / (1 - exp(-r)) + (1 - share) q exp(-q (1-t)) / (1 - exp(-q)),  r = source, q = data
    Assumes a deterministic coupling (reflow pairs).  With equal rates and share 0.5 it is UShaped.
    Source: Liu et al. 2024, FlashAudio (arXiv 2410.12266), bifocal samplers.

    >>> Bifocal(4.0, 4.0)(2, torch.empty(0), Rng(0)).shape
    torch.Size([2])
    """

    source: float = 4.0  # decay rate away from t = 0, above 0
    data: float = 4.0  # decay rate away from t = 1, above 0
    share: float = 0.5  # weight of the component at the source, 0 to 1

    def __post_init__(self) -> None:
        require(
            self.source > 0 and self.data > 0 and 0 <= self.share <= 1,
            f"Bifocal got source={self.source}, data={self.data}, share={self.share}; rates must be above 0 and the "
            "share between 0 and 1: 4, 4 and 0.5 are usual",
        )

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        u = rng.fork("place").uniform(n, like)
        first = rng.fork("focus").uniform(n, like) < self.share
        rate = torch.where(first, self.source, self.data).to(u.dtype)
        near = -torch.log1p(u * torch.expm1(-rate)) / rate
        return clamp_to_open_interval(torch.where(first, near, 1 - near))

    def log_prob(self, t: Tensor) -> Tensor:
        def part(rate: float, distance: Tensor) -> Tensor:
            return rate * torch.exp(-rate * distance) / -math.expm1(-rate)

        return _inside(t, torch.log(self.share * part(self.source, t) + (1 - self.share) * part(self.data, 1 - t)))


@dataclass(frozen=True)
class Beta:
    """Beta-distributed training times.

    p(t) proportional to t^(data - 1) (1-t)^(source - 1)
    (1, 1) is uniform; (1.5, 1), with more samples near the source, is used for robot actions.
    Source: Black et al. 2024, pi-0 (arXiv 2410.24164), with the same direction of time.

    >>> Beta(1.0, 1.0).log_prob(torch.tensor([0.3]))
    tensor([0.])
    """

    source: float = 1.5  # weight of the source end, above 0; the density falls off at t = 1 when above 1
    data: float = 1.0  # weight of the data end, above 0

    def __post_init__(self) -> None:
        require(
            self.source > 0 and self.data > 0,
            f"Beta got source={self.source}, data={self.data}; both parameters must be above 0: 1 and 1 give uniform "
            "times",
        )

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        shape = torch.tensor([self.data, self.source], dtype=torch.float64).expand(n, 2).contiguous()
        gamma = torch._standard_gamma(shape, generator=rng.generator())
        t = (gamma[:, 0] / gamma.sum(1)).to(like.device, like.dtype)
        return clamp_to_open_interval(t)

    def log_prob(self, t: Tensor) -> Tensor:
        norm = math.lgamma(self.data) + math.lgamma(self.source) - math.lgamma(self.data + self.source)
        value = (self.data - 1) * torch.log(t) if self.data != 1 else torch.zeros_like(t)
        value = value + ((self.source - 1) * torch.log1p(-t) if self.source != 1 else 0.0)
        return _inside(t, value - norm)


@dataclass(frozen=True)
class At:
    """A single training time; At(0.0) turns flow matching on pairs into one-step distillation.

    t = constant
    Assumes that the field is evaluated at this time only.
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003), section on distillation.

    >>> At(0.0)(2, torch.empty(0), Rng(0))
    tensor([0., 0.])
    """

    t: float = 0.0  # in [0, 1]

    def __post_init__(self) -> None:
        require(0 <= self.t <= 1, f"At got t={self.t}; times lie between 0 (source) and 1 (data): set one of them")

    def quantile(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self.t)

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        return like.new_full((n,), self.t)

    def log_prob(self, t: Tensor) -> Tensor:
        """Infinity at the time of the point mass, minus infinity elsewhere."""
        return torch.where(t == self.t, math.inf, -math.inf).to(t.dtype)


def clamp_to_open_interval(t: Tensor) -> Tensor:
    """Clamp times to the open interval (0, 1), because slopes may be infinite at an end."""
    tiny = torch.finfo(t.dtype).eps
    return t.clamp(tiny, 1 - tiny)


def _inside(t: Tensor, value: Tensor) -> Tensor:
    return torch.where((t >= 0) & (t <= 1), value, torch.full_like(t, -math.inf))
