"""Tokens: mixture paths and jump processes (discrete flow matching).

A token is a one-hot vector along the last dimension, so that a field has the shape of its state: v is the mean rate of
change of the probability of each symbol.  Guidance and other wrappers of a field apply to it as to any velocity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.modes import check_values
from beeline.core.protocols.flows import NoiseProcess, Solver, SolverTraits, Source
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Dynamics, Point, expand_time
from beeline.fields.flow import Flow
from beeline.paths.affine import check_times
from beeline.paths.interpolant import required_rng
from beeline.solvers.diffusions import White
from beeline.solvers.process import Process
from beeline.solvers.wrappers import SolverBase, complete
from beeline.spaces.simplex import check_simplex

_EDGE = 1e-4  # least distance of the time of a rate from both ends, where it is undefined or infinite


@dataclass(frozen=True)
class TokenMixture:
    """The mixture path of discrete flow matching: each token is that of the datum or that of the source.

    x_t = x1 with probability kappa, else x0, independently per token;  kappa = t^power;
    v = kappa' / (1 - kappa) (E[x1 | x_t] - x_t), the mean of a jump process with that rate
    Assumes one-hot tokens [B,*S,K] and the solver TokenJumps.
    Source: Gat et al. 2024, "Discrete Flow Matching" (arXiv 2407.15595); Campbell et al. 2024 (arXiv 2402.04997).

    >>> TokenMixture().point(torch.eye(2), torch.eye(2).flip(0), torch.ones(2), Rng(0)).x
    tensor([[0., 1.],
            [1., 0.]])
    """

    power: float = 1.0  # exponent of the time, at least 1; 1 to 2 is usual

    def __post_init__(self) -> None:
        require(
            self.power >= 1,
            f"TokenMixture got power={self.power}; below 1 the jump rate at t = 0 is infinite: set 1 or more",
        )

    def sources(self) -> tuple[Source, ...]:
        return UniformTokens(), MaskTokens()

    def process(self) -> Process:
        return Jumps(TokenJumps(self))

    def kappa(self, t: Tensor) -> Tensor:
        """The probability that a token is that of the datum at ``t``."""
        return t**self.power

    def rate(self, t: Tensor) -> Tensor:
        """Jump rate per unit of time of a token of the source."""
        t = t.clamp(_EDGE, 1 - _EDGE)
        return self.power * t ** (self.power - 1) / (1 - self.kappa(t))

    def point(self, x0: Tensor, x1: Tensor, t: Tensor, rng: Rng | None = None) -> Point:
        x = self.state(x0, x1, t, rng)
        return Point(x, self.mixture(x, t, x1))

    def state(self, x0: Tensor, x1: Tensor, t: Tensor, rng: Rng | None = None) -> Tensor:
        """The state of ``point`` without its velocity."""
        check_times(t)
        check_tokens(x1, "the datum")
        check_tokens(x0, "the source")
        there = required_rng(rng, self).fill(x1[..., :1]) < expand_time(self.kappa(t), x1)
        return torch.where(there, x1, x0)

    def mixture(self, x: Tensor, t: Tensor, p: Tensor) -> Tensor:
        """The velocity [B,*S,K] at x when the datum's symbol is k with probability p_k."""
        return expand_time(self.rate(t), x) * (p - x)


@dataclass(frozen=True)
class UniformTokens:
    """Independent, uniformly distributed tokens.

    x0 ~ U{e_1, ..., e_K}
    Assumes one-hot tokens [B,*S,K].
    Source: Campbell et al. 2024 (arXiv 2402.04997).

    >>> UniformTokens().sample(torch.empty(4, 3), Rng(0)).sum(1)
    tensor([1., 1., 1., 1.])
    """

    gaussian = False

    def sample(self, like: Tensor, rng: Rng) -> Tensor:
        symbol = (rng.fill(like[..., 0]) * like.shape[-1]).long()
        return torch.nn.functional.one_hot(symbol, like.shape[-1]).to(like)

    def log_prob(self, x: Tensor) -> Tensor:
        check_tokens(x, "the state")
        return torch.full(
            (len(x),), -math.log(x.shape[-1]) * (x[0].numel() // x.shape[-1]), dtype=x.dtype, device=x.device
        )


@dataclass(frozen=True)
class MaskTokens:
    """Masked tokens: every token is the last symbol, the mask.

    x0 = e_K
    Assumes one-hot tokens [B,*S,K], with data that do not use the last symbol.
    Source: Campbell et al. 2024 (arXiv 2402.04997), masking interpolant.

    >>> MaskTokens().sample(torch.empty(1, 3), Rng(0))
    tensor([[0., 0., 1.]])
    """

    gaussian = False

    def sample(self, like: Tensor, rng: Rng) -> Tensor:
        x = torch.zeros_like(like)
        x[..., -1] = 1
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        here = (x[..., -1] == 1).flatten(1).all(1)
        return torch.where(here, 0.0, -torch.inf).to(x.dtype)


@dataclass(frozen=True)
class TokenJumps(SolverBase):
    """A step of the jump process of a mixture path.

    with probability (kappa_s - kappa_t) / (1 - kappa_t):  x_s ~ p = x + v / rate(t), else x_s = x
    Assumes the velocity of a TokenMixture path.  Exact for one token and any step length, else in the limit of short
    steps.  Negative entries of p, which guidance can produce, are set to zero.
    Source: Campbell et al. 2024 (arXiv 2402.04997); Gat et al. 2024 (arXiv 2407.15595).

    >>> path, p = TokenMixture(), torch.tensor([[0.0, 1.0]])
    >>> step = TokenJumps(path).step
    >>> step(lambda x, t: path.mixture(x, t, p), torch.tensor([[1.0, 0.0]]), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[0., 1.]])
    """

    path: TokenMixture = field(default_factory=TokenMixture)
    noise: NoiseProcess = field(
        default_factory=lambda: White(Rng(0))
    )  # seeds: a token's normal z becomes uniform as Phi(z)
    order: int = field(default=1, init=False)

    @property
    def traits(self) -> SolverTraits:
        return SolverTraits(paths=(self.path,), stochastic=True, tokens=True)

    def with_seeds(self, seeds: Sequence[int], *names: int | str | float) -> Any:
        return replace(self, noise=self.noise.with_seeds(seeds, *names))

    def for_rows(self, start: int, end: int) -> Any:
        return replace(self, noise=self.noise.for_rows(start, end))

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        now, then = self.path.kappa(t), self.path.kappa(s)
        require(
            bool((host_times(s) > host_times(t)).all()),
            "TokenJumps got a step towards the source; tokens jump towards the data only, so that a datum has no "
            "inverse: integrate towards the data",
        )
        p = (x + f(x, t) / expand_time(self.path.rate(t), x)).clamp(min=0)
        cut = p.cumsum(-1)
        which, when = (normal_to_uniform(self.noise(t, s, x[..., :1], name)) for name in ("symbol", "when"))
        u = which * cut[..., -1:]
        symbol = (cut <= u).sum(-1).clamp(max=x.shape[-1] - 1)
        new = torch.nn.functional.one_hot(symbol, x.shape[-1]).to(x)
        chance = expand_time((then - now) / (1 - now), x)
        return torch.where(when < chance, new, x), None


@dataclass(frozen=True)
class Jumps(Process):
    """A jump process of tokens, for solvers with one-hot states, towards the data only."""

    default_solver: Solver = field(default_factory=TokenJumps)
    invertible = False

    def check(self, flow: Flow, solver: Solver, times: Tensor) -> None:
        require(
            complete(solver).traits.tokens,
            f"{type(solver).__name__} does not keep the one-hot states of a flow on {flow.path}; it is sampled by "
            f"jumps: use {type(self.default_solver).__name__}(path={flow.path})",
        )
        super().check(flow, solver, times)


def normal_to_uniform(z: Tensor) -> Tensor:
    """Phi(z), which maps standard normal to uniform numbers in (0, 1)."""
    edge = torch.finfo(z.dtype).eps
    return torch.special.ndtr(z).clamp(edge, 1 - edge)


def check_tokens(x: Tensor, name: str) -> None:
    """Raise ValueError for values that are not one-hot along the last dimension."""
    check_simplex(x, name)
    check_values(
        ((x == 0) | (x == 1)).all(),
        lambda: (
            f"{name} contains probabilities between 0 and 1 (for example {float(x.flatten()[0]):.3g}); a token is "
            "one-hot: encode with torch.nn.functional.one_hot(...).float(), or use a path on the simplex, such as "
            "Dirichlet()"
        ),
    )
