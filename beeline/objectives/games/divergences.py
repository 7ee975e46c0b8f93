"""The f-divergences of a score game, by the weight of their gradient."""

from __future__ import annotations

from torch import Tensor

from beeline.core.ranges import dataclass
from beeline.objectives.games import formulas


class WithRatio:
    """Base of divergences whose weight depends on the density ratio."""

    @property
    def ratio(self) -> bool:
        return True


@dataclass(frozen=True)
class ReverseKL:
    """The reverse Kullback-Leibler divergence, which prefers the main modes and needs no critic.

    f(r) = -log r,  h(r) = 1
    Source: Yin et al. 2024, "One-step Diffusion with Distribution Matching Distillation" (arXiv 2311.18828).

    >>> ReverseKL().ratio
    False
    """

    @property
    def ratio(self) -> bool:
        return False

    def weight(self, r: Tensor) -> Tensor:
        return formulas.reverse_kl(r)


@dataclass(frozen=True)
class ForwardKL(WithRatio):
    """The Kullback-Leibler divergence, which covers all modes.

    f(r) = r log r,  h(r) = r
    Source: Xu et al. 2025, f-distill (arXiv 2502.15681).

    >>> import torch
    >>> ForwardKL().weight(torch.tensor([2.0]))
    tensor([2.])
    """

    def weight(self, r: Tensor) -> Tensor:
        return formulas.forward_kl(r)


@dataclass(frozen=True)
class JensenShannon(WithRatio):
    """The Jensen-Shannon divergence.

    f(r) = r log r - (r+1) log((r+1)/2),  h(r) = r / (1+r)
    Source: Xu et al. 2025, f-distill (arXiv 2502.15681).

    >>> import torch
    >>> JensenShannon().weight(torch.tensor([1.0]))
    tensor([0.5000])
    """

    def weight(self, r: Tensor) -> Tensor:
        return formulas.jensen_shannon(r)


@dataclass(frozen=True)
class SoftenedReverseKL(WithRatio):
    """The reverse Kullback-Leibler divergence, with little weight where the student is far too rare.

    f(r) = (r+1) log((r+1)/(2r)),  h(r) = 1 / (1+r)
    Source: Xu et al. 2025, f-distill (arXiv 2502.15681).

    >>> import torch
    >>> SoftenedReverseKL().weight(torch.tensor([3.0]))
    tensor([0.2500])
    """

    def weight(self, r: Tensor) -> Tensor:
        return formulas.softened_reverse_kl(r)


@dataclass(frozen=True)
class SquaredHellinger(WithRatio):
    """The squared Hellinger distance.

    f(r) = 4 (1 - sqrt r),  h(r) = sqrt r
    Source: Xu et al. 2025, f-distill (arXiv 2502.15681).

    >>> import torch
    >>> SquaredHellinger().weight(torch.tensor([4.0]))
    tensor([2.])
    """

    def weight(self, r: Tensor) -> Tensor:
        return formulas.squared_hellinger(r)


@dataclass(frozen=True)
class Jeffreys(WithRatio):
    """The sum of the two Kullback-Leibler divergences.

    f(r) = (r-1) log r,  h(r) = 1 + r
    Source: Xu et al. 2025, f-distill (arXiv 2502.15681).

    >>> import torch
    >>> Jeffreys().weight(torch.tensor([2.0]))
    tensor([3.])
    """

    def weight(self, r: Tensor) -> Tensor:
        return formulas.jeffreys(r)


@dataclass(frozen=True)
class Neyman(WithRatio):
    """The Neyman chi-squared divergence, which avoids samples that the teacher does not make.

    f(r) = 1 / (2 r),  h(r) = 1 / r
    Source: Xu et al. 2025, f-distill (arXiv 2502.15681).

    >>> import torch
    >>> Neyman().weight(torch.tensor([4.0]))
    tensor([0.2500])
    """

    def weight(self, r: Tensor) -> Tensor:
        return formulas.neyman(r)
