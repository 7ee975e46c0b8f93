"""Loss weights over time, on top of the density of the time sampler."""

from __future__ import annotations

from dataclasses import field

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import TimeSampler
from beeline.core.ranges import Positive, dataclass
from beeline.paths.affine import AffinePath, Linear
from beeline.times.composed import log_snr
from beeline.times.samplers import Uniform


@dataclass(frozen=True)
class ByDensity:
    """The density of a time sampler as a weight: with uniform times the loss equals that of the sampler.

    w(t) = p(t)^power, at most ``cap``
    Assumes a sampler with a density.  power = -1 undoes importance sampling.
    Source: Esser et al. 2024 (arXiv 2403.03206), samplers and weights as one.

    >>> ByDensity(Uniform())(torch.tensor([0.3]))
    tensor([1.])
    """

    times: TimeSampler = field(default_factory=Uniform)
    power: float = 1.0  # 1 weights like the sampler, -1 undoes it
    cap: Positive = 1e4  # highest weight

    def __call__(self, t: Tensor) -> Tensor:
        return (self.power * self.times.log_prob(t)).exp().clamp(max=self.cap)


@dataclass(frozen=True)
class PowerWeight:
    """A power of t and of 1 - t: positive exponents of t emphasise errors near the data.

    w(t) = t^data (1-t)^source, at most ``cap``
    PowerWeight(1) is the Huber term of improved rectified flow; PowerWeight(0, -2) gives equal weight to data errors.
    Source: Lee, Lin and Fanti 2024 (arXiv 2405.20320).

    >>> PowerWeight(1.0)(torch.tensor([0.25]))
    tensor([0.2500])
    """

    data: float = 1.0  # exponent of t
    source: float = 0.0  # exponent of 1 - t
    cap: Positive = 1e4  # highest weight, for negative exponents at the ends

    def __call__(self, t: Tensor) -> Tensor:
        return (t**self.data * (1 - t) ** self.source).clamp(max=self.cap)


@dataclass(frozen=True)
class MinSNR:
    """Min-SNR: the signal-to-noise ratio clipped at a bound, as a weight of the velocity error.

    w(t) = min(SNR, bound) / (1 + sqrt(SNR))^2 on Linear();  in general (b / (a b' - b a'))^2 min(SNR, bound)
    Assumes an affine path.  Errors of the predicted datum have the weight min(SNR, bound), for every prediction.
    Source: Hang et al. 2023 (arXiv 2303.09556).

    >>> MinSNR()(torch.tensor([0.5]))
    tensor([0.2500])
    """

    bound: float = 5.0  # above 0
    path: AffinePath = field(default_factory=Linear)

    def __post_init__(self) -> None:
        require(
            self.bound > 0, f"MinSNR got bound={self.bound}; a ratio is positive: give a number above 0 (5 is usual)"
        )

    def __call__(self, t: Tensor) -> Tensor:
        a, b, da, db = self.path.coefficients(t.clamp(1e-6, 1 - 1e-6))  # a slope may be 0 at an end
        snr = (a / b) ** 2
        return snr.clamp(max=self.bound) * (b / (a * db - b * da)) ** 2


@dataclass(frozen=True)
class SigmoidSNR:
    """A sigmoid of the log signal-to-noise ratio, which emphasises intermediate noise levels.

    w(t) = lambda'/2 (a / (a b' - b a'))^2 sigmoid(bias - lambda),  lambda = log(a^2 / b^2)
    With even times the loss is 1/2 of the integral of sigmoid(bias - lambda) |x0 - x0_hat|^2 over lambda, which is the
    same for every path.  On Linear(): w(t) = t / (1-t) sigmoid(bias - lambda).
    Assumes an affine path and even times; t = 0 and 1 have the limit of the formula.
    Source: Hoogeboom, Heek and Salimans 2024 (arXiv 2410.19324), sigmoid loss; Kingma and Gao 2023 (arXiv 2303.00848).

    >>> float(SigmoidSNR()(torch.tensor([0.5]))) > 0
    True
    """

    bias: float = -3.0  # of the log SNR; lower moves weight to noisier times
    path: AffinePath = field(default_factory=Linear)

    def __call__(self, t: Tensor) -> Tensor:
        inside = t.clamp(1e-6, 1 - 1e-6)
        a, b, da, db = self.path.coefficients(inside)
        lam, slope = log_snr(self.path, inside)
        return slope / 2 * torch.sigmoid(self.bias - lam) * (a / (a * db - b * da)) ** 2
