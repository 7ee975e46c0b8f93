"""A part of the straight path, from noise to a state before the data."""

from __future__ import annotations

import torch
from torch import Tensor

from beeline.core.ranges import Inside, dataclass
from beeline.paths.affine import AffinePath, Coefficients


@dataclass(frozen=True)
class PartOfPath(AffinePath):
    """The straight path up to a state at the time ``end``, given that state.

    x_t = (t/s) x_s + b(t) e,  b(t)^2 = (1-t)^2 - (t/s)^2 (1-s)^2,  s = end;  at rest after s
    For states x_s of the straight path, x_t has the distribution of that path at t, and E[v | x_t] is its velocity:
    flow matching on this path has the original field as its minimum.  The slope of b is infinite at s.
    Source: Fan et al. 2025, "Phased DMD" (arXiv 2510.27684), in the convention of flow matching.

    >>> float(PartOfPath(0.5).b(torch.tensor(0.25)))
    0.7071067690849304
    """

    end: Inside = 0.5

    def a(self, t: Tensor) -> Tensor:
        return (t / self.end).clamp(max=1)

    def b(self, t: Tensor) -> Tensor:
        # (1-t)^2 - (t/s)^2 (1-s)^2, whose two factors vanish exactly where they should
        share = self.a(t) * (1 - self.end)
        return ((1 - t - share).clamp(min=0) * (1 - t + share)).sqrt() * (t < self.end)

    def coefficients(self, t: Tensor) -> Coefficients:
        a, b, inside = self.a(t), self.b(t), t < self.end
        half = -(1 - t) - t * ((1 - self.end) / self.end) ** 2  # b b'
        rest = torch.zeros_like(t)
        at_end = torch.where(t == self.end, torch.full_like(t, -torch.inf), rest)
        return a, b, torch.where(inside, 1 / self.end + rest, rest), torch.where(b > 0, half / b, at_end)

    def half_variance_slope(self, t: Tensor) -> Tensor:
        half = -(1 - t) - t * ((1 - self.end) / self.end) ** 2
        return torch.where(t < self.end, half, torch.zeros_like(t))

    def finite_slope_time(self, t: Tensor, clip: float) -> Tensor:
        return torch.where(t <= self.end, t.clamp(max=self.end * (1 - clip)), t)
