"""The probability simplex: paths to one-hot symbols and velocity fields given by a classifier."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn

from beeline.core.declared import Holding, unwrapped
from beeline.core.errors import require
from beeline.core.modes import check_values
from beeline.core.protocols.flows import Source, SymbolPath
from beeline.core.ranges import Positive, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, Dynamics, Point, expand_time
from beeline.fields.flow import bind
from beeline.paths.affine import check_times
from beeline.paths.interpolant import required_rng
from beeline.solvers.process import FieldReadout, HasProcess, Process

_TABLE = 2001  # nodes of the table of rates


class InteriorPath:
    """Base class of paths that end inside the simplex; samples end at the classifier's symbol."""


@dataclass(frozen=True)
class Dirichlet(InteriorPath):
    """Dirichlet distributions from the uniform one to one concentrated at the symbol.

    p_t(x | x1 = e_k) = Dir(1 + tau e_k),  tau = top t;  u_k = C(x_k, tau) (e_k - x) top
    Assumes one-hot data [B,*S,K] and the source Simplex().  At t = 1 the distribution is Dir(1 + top e_k); samples end
    at the classifier's symbol.
    Source: Stark et al. 2024, "Dirichlet Flow Matching" (arXiv 2402.05841).

    >>> Dirichlet().point(torch.ones(1, 2) / 2, torch.tensor([[0.0, 1.0]]), torch.ones(1), Rng(0)).x.sum()
    tensor(1.)
    """

    top: float = 7.0  # concentration added at t = 1, above 0; 7 is the paper's alpha = 8

    def __post_init__(self) -> None:
        require(self.top > 0, f"Dirichlet got top={self.top}; a concentration must be above 0: 7 is usual")

    def sources(self) -> tuple[Source, ...]:
        return (Simplex(),)

    def point(self, x0: Tensor, x1: Tensor, t: Tensor, rng: Rng | None = None) -> Point:
        x = self.state(x0, x1, t, rng)
        return Point(x, self.mixture(x, t, x1))

    def state(self, x0: Tensor, x1: Tensor, t: Tensor, rng: Rng | None = None) -> Tensor:
        """The state of ``point`` without its velocity, which is expensive to compute."""
        check_times(t)
        check_simplex(x1, "the datum")
        tau = expand_time(self.top * t, x1)
        gamma = torch._standard_gamma((1 + tau * x1).double().cpu(), generator=required_rng(rng, self).generator())
        return (gamma / gamma.sum(-1, keepdim=True)).to(x1.device, x1.dtype)

    def mixture(self, x: Tensor, t: Tensor, p: Tensor) -> Tensor:
        """The velocity [B,*S,K] at x when symbol k has probability p_k."""
        pull = p * self.rate(x, expand_time(self.top * t, x).expand_as(x))
        return self.top * (pull - x * pull.sum(-1, keepdim=True))

    def rate(self, b: Tensor, tau: Tensor) -> Tensor:
        """C(b, tau) = -dI_b(tau+1, K-1)/dtau B(tau+1, K-1) / ((1-b)^(K-1) b^tau); zero where it is below rounding."""
        levels = tau.flatten().unique()
        if b.numel() < 4 * _TABLE * len(levels):
            return _rate(b, tau, b.shape[-1])
        # few levels, as in sampling: interpolation in the cube root of b, in which C is smooth
        grid = torch.linspace(0, 1, _TABLE, dtype=torch.float64, device=b.device)
        rates = torch.zeros_like(b, dtype=torch.float64)
        place = b.detach().double().clamp(0, 1) ** (1 / 3) * (_TABLE - 1)
        low = place.long().clamp(max=_TABLE - 2)
        for level in levels:
            table = _rate(grid**3, torch.full_like(grid, float(level)), b.shape[-1])
            here = torch.lerp(table[low], table[low + 1], place - low)
            rates = torch.where(tau == level, here, rates)
        return rates.to(b.dtype)


@dataclass(frozen=True)
class GumbelSoftmax(InteriorPath):
    """A softmax of an increasing signal and fixed Gumbel noise with decreasing temperature.

    x_t = softmax((signal t e_k + top log x0) / tau),  tau = top exp(-cooling t);
    u_k = cooling x (log x - <x, log x>) + (signal / tau) x_k (e_k - x)
    Assumes one-hot data [B,*S,K] and the source GumbelSimplex(top, sharpness).  The signal increases from zero, so that
    the state at t = 0 is independent of the symbol, unlike with the constant signal of the paper.
    Source: Tang et al. 2025, "Gumbel-Softmax Flow Matching" (arXiv 2503.17361), with an increasing signal.

    >>> GumbelSoftmax().point(torch.ones(1, 2) / 2, torch.tensor([[0.0, 1.0]]), torch.zeros(1)).x
    tensor([[0.5000, 0.5000]])
    """

    signal: float = 4.0  # signal at t = 1, in units of the Gumbel noise; 3 to 5
    top: float = 10.0  # temperature at t = 0
    cooling: float = 3.0  # decay rate of the temperature

    def __post_init__(self) -> None:
        require(
            self.signal > 0 and self.top > 0 and self.cooling >= 0,
            f"GumbelSoftmax got signal={self.signal}, top={self.top}, cooling={self.cooling}; signal and temperature "
            "must be above 0 and the cooling rate at least 0: 4, 10 and 3 are usual",
        )

    def sources(self) -> tuple[Source, ...]:
        return (GumbelSimplex(self.top),)

    def temperature(self, t: Tensor) -> Tensor:
        return self.top * torch.exp(-self.cooling * t)

    def point(self, x0: Tensor, x1: Tensor, t: Tensor, rng: Rng | None = None) -> Point:
        x = self.state(x0, x1, t)
        return Point(x, self.mixture(x, t, x1))

    def state(self, x0: Tensor, x1: Tensor, t: Tensor, rng: Rng | None = None) -> Tensor:
        """The state of ``point`` without its velocity."""
        check_times(t)
        check_simplex(x0, "the source point")
        check_simplex(x1, "the datum")
        logits = expand_time(self.signal * t, x1) * x1 + self.top * _safe_log(x0)
        return torch.softmax(logits / expand_time(self.temperature(t), x1), -1)

    def mixture(self, x: Tensor, t: Tensor, p: Tensor) -> Tensor:
        """The velocity [B,*S,K] at x when symbol k has probability p_k."""
        x = project_to_simplex(x)  # x log x is undefined where a step went below zero
        mean = lambda w: (x * w).sum(-1, keepdim=True)  # noqa: E731
        log = _safe_log(x)
        grow = p * x - x * mean(p)
        return self.cooling * x * (log - mean(log)) + expand_time(self.signal / self.temperature(t), x) * grow


@dataclass(frozen=True)
class Simplex:
    """The uniform distribution on the simplex.

    x0 ~ Dir(1, ..., 1) along the last dimension
    Assumes data [B,*S,K].
    Source: Stark et al. 2024 (arXiv 2402.05841).

    >>> Simplex().sample(torch.empty(2, 3), Rng(0)).sum(1)
    tensor([1., 1.])
    """

    gaussian = False

    def sample(self, like: Tensor, rng: Rng) -> Tensor:
        wait = -torch.log1p(-rng.fill(like.double()))
        return (wait / wait.sum(-1, keepdim=True)).to(like.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.full(
            (len(x),), math.lgamma(x.shape[-1]) * (x[0].numel() // x.shape[-1]), dtype=x.dtype, device=x.device
        )


@dataclass(frozen=True)
class GumbelSimplex:
    """The softmax of Gumbel noise at a high temperature.

    x0 = softmax(g / (sharpness top)),  g standard Gumbel
    Assumes data [B,*S,K] and a GumbelSoftmax path with the same ``top``.
    Source: Tang et al. 2025 (arXiv 2503.17361).

    >>> GumbelSimplex().sample(torch.empty(2, 3), Rng(0)).sum(1)
    tensor([1., 1.])
    """

    top: Positive = 10.0  # temperature of the path at t = 0
    sharpness: Positive = 2.0  # higher is less noise
    gaussian = False

    def sample(self, like: Tensor, rng: Rng) -> Tensor:
        u = rng.fill(like.double()).clamp(min=1e-300)
        return torch.softmax(-torch.log(-torch.log(u)) / (self.sharpness * self.top), -1).to(like.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of the Gumbel-softmax distribution in nats, [B]."""
        tau, k = self.sharpness * self.top, x.shape[-1]
        log = _safe_log(x)
        each = math.lgamma(k) + (k - 1) * math.log(tau) - k * torch.logsumexp(-tau * log, -1) - (tau + 1) * log.sum(-1)
        return each.reshape(len(x), -1).sum(1)


class PosteriorNetwork(Holding):
    """A velocity field on the simplex given by a classifier of the symbol at t = 1.

    v = sum_k softmax(net(x, t, cond))_k u_k(x, t)
    Assumes a network with logits over the last dimension, of the shape of the state.  On a path that ends inside the
    simplex, a Sampler returns the most likely symbol, argmax_k softmax(net(x, 1))_k, with guidance.
    Source: Stark et al. 2024 (arXiv 2402.05841).

    >>> field = PosteriorNetwork(lambda x, t: torch.zeros_like(x), GumbelSoftmax())
    >>> field(torch.ones(1, 2) / 2, torch.zeros(1)).abs().sum()
    tensor(0.)
    """

    parts = ("network",)

    def __init__(
        self,
        network: Any,
        path: SymbolPath,
        logs: bool = False,  # pass log(x) / 4, at least -2.3, to the network in place of x
    ):
        super().__init__()
        self.network, self.path, self.logs = network, path, logs

    def logits(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """Logits [B,*S,K] of the symbol."""
        return bind(self.network, cond)(x.clamp(min=1e-4).log() / 4 if self.logs else x, t)

    def process(self) -> Process:
        return (
            self.path.process()
            if isinstance(self.path, HasProcess)
            else PosteriorProcess(inside=isinstance(self.path, InteriorPath))
        )

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"network": self.network, "path": self.path, "logs": self.logs}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        return self.path.mixture(x, t, torch.softmax(self.logits(x, t, cond), -1))


@dataclass(frozen=True)
class PosteriorProcess(Process):
    """An ODE on the simplex with a final step to the most likely symbol of the guided classifier.

    x <- e_k,  k = argmax of p(x, 1), with guidance applied to the probabilities
    Assumes a PosteriorNetwork.

    >>> field = PosteriorNetwork(lambda x, t: torch.tensor([[0.0, 2.0]]), GumbelSoftmax())
    >>> PosteriorProcess().finish(field, bind, torch.tensor([[0.9, 0.1]]))
    tensor([[0., 1.]])
    """

    inside: bool = True  # whether states at t = 1 are not symbols yet
    invertible = False

    def finish(self, field: Any, guided: Callable[[Any], Dynamics], x: Tensor) -> Tensor:
        if not self.inside:
            return x
        end = torch.ones(len(x), dtype=x.dtype, device=x.device)
        best = guided(FieldReadout(probabilities, field))(x, end).argmax(-1)
        return nn.functional.one_hot(best, x.shape[-1]).to(x)


def probabilities(field: Any, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
    """Probabilities of the symbol [B,*S,K] of a classifier."""
    classifier = unwrapped(field)
    require(
        isinstance(classifier, PosteriorNetwork),
        f"the symbol probabilities of {type(field).__name__} were requested for the end of a run on the simplex; it "
        "has no logits: guide with another PosteriorNetwork(network, path)",
    )
    return torch.softmax(classifier.logits(x, t, cond), -1)


def check_simplex(x: Tensor, name: str, tolerance: float = 1e-3) -> None:
    """Raise ValueError for values that are no probabilities along the last dimension."""
    if torch.compiler.is_compiling() or not x.numel():
        return
    far = (x.detach().sum(-1) - 1).abs().max()
    good = (far <= tolerance) & (x >= -tolerance).all()
    check_values(
        good if x.shape[-1] >= 2 else torch.zeros_like(good),
        lambda: (
            f"{name} is not on the simplex: over {x.shape[-1]} symbols its probabilities sum to 1 with an error of "
            f"{float(far):.3g} (lowest {float(x.min()):.3g}); symbols are one-hot along the last dimension, at least "
            "two: encode with torch.nn.functional.one_hot(...).float()"
        ),
    )


def project_to_simplex(x: Tensor) -> Tensor:
    """Probabilities from states that a solver's steps moved off the simplex: entries clamped at zero, sum one."""
    x = x.clamp(min=0)
    return x / x.sum(-1, keepdim=True)


def _safe_log(x: Tensor) -> Tensor:
    return x.clamp(min=torch.finfo(x.dtype).tiny).log()


def _rate(b: Tensor, tau: Tensor, k: int) -> Tensor:
    n, a, h = b.detach().double().cpu().numpy(), tau.detach().double().cpu().numpy() + 1, 1e-2
    # fourth-order central difference: the regularised incomplete beta has no simple derivative in tau
    far, near, nearer, further = (special.betainc(a + i * h, k - 1, n) for i in (-2, -1, 1, 2))
    slope = (8 * (nearer - near) - (further - far)) / (12 * h)
    weight = (1 - n) ** (k - 1) * n ** (a - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        c = np.where(weight > 1e-30, -slope * special.beta(a, k - 1) / weight, 0.0)
    return torch.from_numpy(np.nan_to_num(c, posinf=0.0)).to(b.device, b.dtype)
