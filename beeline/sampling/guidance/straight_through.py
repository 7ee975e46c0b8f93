"""Guidance of symbols by a classifier of whole sequences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import unwrapped
from beeline.core.errors import require
from beeline.core.protocols.flows import Guidance
from beeline.core.ranges import Count, NonNegative, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, Dynamics
from beeline.fields.flow import Flow
from beeline.sampling.guidance.guide import FlowDependent, Plain, guidance_for_flow
from beeline.solvers.process import FieldReadout
from beeline.spaces.simplex import InteriorPath, PosteriorNetwork, probabilities, project_to_simplex


@dataclass(frozen=True)
class StraightThrough(FlowDependent):
    """Symbols drawn from the prediction are shown to a classifier, whose gradient there is added to the velocity.

    v = sum_k p_k u_k(x, t) + strength x (G - <x, G>),  G = mean_m grad log c(z_m),  z_m ~ p(x1 | x, t) one-hot
    Assumes a PosteriorNetwork on a path inside the simplex, and a differentiable classifier of clean one-hot
    sequences.  The gradient stops at the symbols.  x (G - <x, G>) is G in the metric of the simplex, which keeps states
    on it; the paper subtracts the mean of G over symbols and clips.  All samples share the chance of the draws, so that
    none depends on its batch.  ``base`` is guidance of the probabilities p.
    Source: Tang et al. 2025, "Gumbel-Softmax Flow Matching with Straight-Through Guidance" (arXiv 2503.17361).

    >>> from beeline.spaces.simplex import GumbelSoftmax
    >>> net = PosteriorNetwork(lambda x, t: torch.zeros_like(x), GumbelSoftmax())
    >>> StraightThrough(lambda z: z[:, 0], 4.0)(net, None)(torch.ones(1, 2) / 2, torch.zeros(1))
    tensor([[ 1., -1.]])
    """

    classifier: Callable[[Tensor], Tensor]  # log c of one-hot data: [N,*S,K] -> [N]
    strength: NonNegative = 1.0  # from 0, which is none
    draws: Count = 10  # sequences at each evaluation
    base: Guidance = field(default_factory=Plain)
    rng: Rng = Rng(0)  # of the draws

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.strength) and self.strength >= 0 and self.draws >= 1,
            f"StraightThrough got strength={self.strength}, draws={self.draws}; give a strength from 0 and at least "
            "one draw: 1 and 10 are usual",
        )

    def for_flow(self, flow: Flow) -> StraightThrough:
        return replace(self, base=guidance_for_flow(self.base, flow))

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        if isinstance(field, FieldReadout):  # which symbol it is at the end
            return self.base(field, cond)
        network = unwrapped(field)
        require(
            isinstance(network, PosteriorNetwork) and isinstance(network.path, InteriorPath),
            f"StraightThrough was given {type(network).__name__}; it needs probabilities of symbols and states inside "
            "the simplex: PosteriorNetwork(network, Dirichlet()) or GumbelSoftmax()",
        )
        posterior, count = self.base(FieldReadout(probabilities, field), cond), 0

        def f(x: Tensor, t: Tensor, *end: Tensor) -> Tensor:
            nonlocal count
            p, count = posterior(x, t), count + 1
            g = self.gradient(p, self.rng.fork("draws", count))
            v: Tensor = network.path.mixture(x, t, p)
            y = project_to_simplex(x)
            return v + self.strength * y * (g - (y * g).sum(-1, keepdim=True))

        return f

    def gradient(self, p: Tensor, rng: Rng) -> Tensor:
        """The mean gradient of log c [B,*S,K] at symbols drawn from the probabilities ``p``."""
        u = rng.fill(p.new_empty(self.draws, *p.shape[1:], dtype=torch.float64)).clamp(min=1e-300)
        gumbel = -torch.log(-torch.log(u))
        best = (p.detach().clamp(min=1e-30).log()[:, None] + gumbel).argmax(-1)
        with torch.enable_grad():
            z = nn.functional.one_hot(best, p.shape[-1]).to(p).flatten(0, 1).requires_grad_()
            said = self.classifier(z)
            require(
                said.shape == (len(z),) and said.requires_grad,
                f"the classifier gave {tuple(said.shape)} for {len(z)} sequences, "
                f"{'with' if said.requires_grad else 'without'} a gradient; guidance needs one number for each, with "
                "its gradient",
            )
            (made,) = torch.autograd.grad(said.sum(), z)
        return made.reshape(len(p), self.draws, *p.shape[1:]).mean(1)

    def calls(self, t: float) -> int:
        return self.base.calls(t)
