"""Tokens: mixture paths between two token laws, and jump processes that walk them in the one loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from beeline.core.interpolant import drawn
from beeline.core.path import within
from beeline.core.rng import Rng
from beeline.core.types import Dynamics, Point, over, require


@dataclass(frozen=True)
class TokenMixture:
    """Each token is still the source's or already the datum's, by chance.

    x_t = x1 with probability kappa, else x0, token by token;  kappa = t^power
    Assumes tokens as whole numbers in a floating point tensor [B,*S].  A state jumps at the rate
    kappa' / (1 - kappa) to a token drawn from p(x1 | x_t).
    Source: Gat et al. 2024, "Discrete Flow Matching" (arXiv 2407.15595); Campbell et al. 2024 (arXiv 2402.04997).

    >>> TokenMixture().point(torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1), Rng(0)).x
    tensor([[1., 1.]])
    """

    power: float = 1.0  # of the clock, at least 1; 1 to 2 is usual

    def __post_init__(self) -> None:
        require(
            self.power >= 1,
            f"TokenMixture got power={self.power}; below 1 the first jump comes at an infinite rate: give 1 or more",
        )

    def kappa(self, t: Tensor) -> Tensor:
        """The share of tokens that are the datum's at ``t``."""
        return t**self.power

    def point(self, x0: Tensor, x1: Tensor, t: Tensor, rng: Rng | None = None) -> Point:
        """State, and the mean displacement per unit of time (what matters to a solver is the rate)."""
        within(t)
        check_tokens(x1, None, "the datum")
        x = torch.where(drawn(rng, self).fill(x1) < over(self.kappa(t), x1), x1, x0)
        rate = self.power * t ** (self.power - 1)
        return Point(x, over(rate, x1) * (x1 - x0))


@dataclass(frozen=True)
class UniformTokens:
    """Every token equally likely, independently.

    x0 ~ U{0, ..., classes - 1}
    Assumes tokens as whole numbers in a floating point tensor.
    Source: Campbell et al. 2024 (arXiv 2402.04997).

    >>> bool((UniformTokens(3).sample(torch.empty(50), Rng(0)) <= 2).all())
    True
    """

    classes: int = 2  # number of tokens, at least 2
    gaussian = False

    def sample(self, like: Tensor, rng: Rng) -> Tensor:
        return (rng.fill(like) * self.classes).floor()

    def log_prob(self, x: Tensor) -> Tensor:
        check_tokens(x, self.classes, "the state")
        each = torch.log(torch.tensor(float(self.classes)))
        return -each.to(x) * torch.ones(len(x), dtype=x.dtype, device=x.device) * x[0].numel()


@dataclass(frozen=True)
class MaskTokens:
    """Nothing known yet: every token is the mask, one beyond the last.

    x0 = classes
    Assumes a network that knows the extra token.
    Source: Campbell et al. 2024 (arXiv 2402.04997), masking interpolant.

    >>> MaskTokens(3).sample(torch.empty(1, 2), Rng(0))
    tensor([[3., 3.]])
    """

    classes: int = 2  # number of tokens without the mask
    gaussian = False

    def sample(self, like: Tensor, rng: Rng) -> Tensor:
        return torch.full_like(like, self.classes)

    def log_prob(self, x: Tensor) -> Tensor:
        here = (x == self.classes).flatten(1).all(1)
        return torch.where(here, 0.0, -torch.inf).to(x.dtype)


@dataclass(frozen=True)
class TokenJumps:
    """A step of the jump process: each token jumps with the chance that the path gives this step.

    with probability (kappa_s - kappa_t) / (1 - kappa_t):  x_s ~ softmax(f(x, t)), else x_s = x
    Assumes a field that gives logits [B,*S,K] over the datum's token.  Exact for one token at any step; for several it
    is exact as steps shrink.
    Source: Campbell et al. 2024 (arXiv 2402.04997); Gat et al. 2024 (arXiv 2407.15595).

    >>> step = TokenJumps().step
    >>> logits = lambda x, t: torch.tensor([[[0.0, 100.0]]])
    >>> step(logits, torch.zeros(1, 1), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[1.]])
    """

    path: TokenMixture = field(default_factory=TokenMixture)
    rng: Rng = field(default_factory=lambda: Rng(0))
    temperature: float = 1.0  # of the logits; below 1 is more certain
    order: int = field(default=1, init=False)

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        count = 0 if memory is None else memory
        now, then = self.path.kappa(t), self.path.kappa(s)
        require(
            bool((then > now).all()),
            "TokenJumps was asked to walk towards the source; the jumps of a token process are drawn towards the data "
            "only: a token datum has no inverse",
        )
        logits = f(x, t)
        require(
            logits.shape[:-1] == x.shape,
            f"the field gave {tuple(logits.shape)} for tokens {tuple(x.shape)}; a jump needs logits over the tokens: "
            "one more dimension at the end",
        )
        stream = self.rng.fork("jump", count)
        cut = torch.softmax(logits / self.temperature, -1).cumsum(-1)
        u = stream.fork("token").fill(x)[..., None] * cut[..., -1:]
        token = (cut < u).sum(-1).clamp(max=logits.shape[-1] - 1).to(x.dtype)
        chance = over((then - now) / (1 - now), x)
        return torch.where(stream.fork("when").fill(x) < chance, token, x), count + 1


def check_tokens(x: Tensor, classes: int | None, name: str) -> None:
    """Refuse numbers that are no tokens."""
    whole = bool((x == x.round()).all()) and bool((x >= 0).all()) and (classes is None or bool((x < classes).all()))
    require(
        whole,
        f"{name} holds numbers that are no tokens (lowest {float(x.min()):.4g}, highest {float(x.max()):.4g}); tokens "
        f"are whole numbers from 0{'' if classes is None else f' to {classes - 1}'} in a floating point tensor: "
        "encode symbols by their number",
    )
