"""Exact flow maps: of a mixture by Runge-Kutta steps in float64, and of a Gaussian in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import as_map
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.fields.flow import Flow

MIXTURE = GaussianMixture([[-1.5, 0.5], [1.0, -1.0], [0.5, 1.5]], [0.4, 0.6, 0.5], [0.3, 0.4, 0.3])
GAUSSIAN = GaussianMixture([[1.0, -0.5]], 0.4)
FLOW = Flow(MIXTURE.field())


def mixture_average(x: Tensor, t: Tensor, s: Tensor, steps: int = 16) -> Tensor:
    """The average velocity (X - x) / (s - t) of the trajectory from x at t, as the mean of its Runge-Kutta slopes."""
    v = MIXTURE.field()
    h, total, y = (s - t) / steps, torch.zeros_like(x), x
    wide = h[:, None]
    for i in range(steps):
        r = t + i * h
        k1 = v(y, r)
        k2 = v(y + wide / 2 * k1, r + h / 2)
        k3 = v(y + wide / 2 * k2, r + h / 2)
        k4 = v(y + wide * k3, r + h)
        slope = (k1 + 2 * k2 + 2 * k3 + k4) / 6
        total, y = total + slope, y + wide * slope
    return total / steps


def gaussian_average(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The average velocity of X = s m + (x - t m) d(s) / d(t), d(t)^2 = t^2 std^2 + (1 - t)^2, free of s - t = 0."""
    mean = torch.tensor([1.0, -0.5], dtype=x.dtype)
    t, s = t[:, None], s[:, None]
    size = lambda r: (r * r * 0.16 + (1 - r) ** 2).sqrt()  # noqa: E731
    growth = (1.16 * (s + t) - 2) / (size(s) + size(t))  # (d(s) - d(t)) / (s - t)
    return mean + growth / size(t) * (x - t * mean)


class NudgedMap:
    """The exact map of the Gaussian with learnable changes that depend on state and both times."""

    is_flow_map = True

    def __init__(self) -> None:
        self.by = torch.zeros(4, dtype=torch.float64, requires_grad=True)

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None, s: Tensor | None = None) -> Tensor:
        end = t if s is None else s
        ways = (torch.ones_like(x), t[:, None] * x, torch.sin(2 * x), (end - t)[:, None] * torch.ones_like(x))
        return gaussian_average(x, t, end) + sum(b * w for b, w in zip(self.by, ways, strict=True))


EXACT = as_map(lambda x, t, cond=None, s=None: mixture_average(x, t, t if s is None else s))


def data(n: int, rng: Rng, distribution: GaussianMixture = MIXTURE) -> Batch:
    return Batch(distribution.sample(n, rng, dtype=torch.float64))
