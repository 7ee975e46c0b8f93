"""Training times: how often each time between source and data is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from beeline.core.rng import Rng
from beeline.core.types import require


class TimeSampler(Protocol):
    """Draws n times in [0, 1]; a weight over times is a separate argument of the objective."""

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor: ...

    def log_prob(self, t: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Uniform:
    """Every time equally often.

    p(t) = 1 on [0, 1]
    Assumes nothing.
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003).

    >>> Uniform()(4, torch.empty(0), Rng(0)).shape
    torch.Size([4])
    """

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        return rng.uniform(n, like)

    def log_prob(self, t: Tensor) -> Tensor:
        return _inside(t, torch.zeros_like(t))


@dataclass(frozen=True)
class LogitNormal:
    """The middle times more often, the ends never.

    t = sigmoid(z),  z ~ N(mean, std^2);  p(t) = N(logit t; mean, std^2) / (t (1-t))
    Assumes nothing; a positive mean moves towards the data.  A mean m on the noise level sigma is -m here.
    Source: Esser et al. 2024, Stable Diffusion 3 (arXiv 2403.03206).

    >>> bool((LogitNormal()(100, torch.empty(0), Rng(0)) < 1).all())
    True
    """

    mean: float = 0.0  # of the logit; -1 to 1 is usual
    std: float = 1.0  # of the logit, above 0

    def __post_init__(self) -> None:
        require(self.std > 0, f"LogitNormal got std={self.std}; a standard deviation is above 0: 1.0 is usual")

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        t = torch.sigmoid(self.mean + self.std * rng.normal(like.new_empty(n)))
        tiny = torch.finfo(t.dtype).eps
        return t.clamp(tiny, 1 - tiny)

    def log_prob(self, t: Tensor) -> Tensor:
        z = (torch.logit(t) - self.mean) / self.std
        value = -z * z / 2 - math.log(self.std * math.sqrt(2 * math.pi)) - torch.log(t * (1 - t))
        return torch.where((t > 0) & (t < 1), value, torch.full_like(t, -math.inf))


@dataclass(frozen=True)
class UShaped:
    """Both ends more often, for learning from reflow pairs, where the middle is easy.

    p(t) proportional to exp(a t) + exp(a (1-t)) = 2 exp(a/2) cosh(a (t - 1/2))
    Assumes a deterministic coupling (reflow); on independent pairs it spends its draws on the ends.
    Source: Lee, Lin and Fanti 2024, "Improving the Training of Rectified Flows" (arXiv 2405.20320).

    >>> UShaped(4.0)(2, torch.empty(0), Rng(0)).shape
    torch.Size([2])
    """

    a: float = 4.0  # 0 is uniform; 4 in the paper

    def __post_init__(self) -> None:
        require(self.a >= 0, f"UShaped got a={self.a}; a negative value is not U-shaped: give 0 or more, 4 is usual")

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        u = rng.uniform(n, like)
        if self.a == 0:
            return u
        # F(t) = 1/2 + sinh(a (t - 1/2)) / (2 sinh(a/2)), inverted
        t = 0.5 + torch.asinh((2 * u - 1) * math.sinh(self.a / 2)) / self.a
        return t.clamp(0, 1)

    def log_prob(self, t: Tensor) -> Tensor:
        if self.a == 0:
            return _inside(t, torch.zeros_like(t))
        norm = math.log(self.a / (2 * math.sinh(self.a / 2)))
        return _inside(t, torch.log(torch.cosh(self.a * (t - 0.5))) + norm)


@dataclass(frozen=True)
class At:
    """One time only: At(0.0) turns flow matching on pairs into one-step distillation.

    t = constant
    Assumes that the model will be used from this time alone.
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003), section on distillation.

    >>> At(0.0)(2, torch.empty(0), Rng(0))
    tensor([0., 0.])
    """

    t: float = 0.0  # in [0, 1]

    def __post_init__(self) -> None:
        require(0 <= self.t <= 1, f"At got t={self.t}; times run from 0 (source) to 1 (data): give one of them")

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        return like.new_full((n,), self.t)

    def log_prob(self, t: Tensor) -> Tensor:
        """A point mass: infinite at its time, minus infinity elsewhere."""
        return torch.where(t == self.t, math.inf, -math.inf).to(t.dtype)


def _inside(t: Tensor, value: Tensor) -> Tensor:
    return torch.where((t >= 0) & (t <= 1), value, torch.full_like(t, -math.inf))
