"""Classifier guidance for symbols by the straight-through estimator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import unwrapped
from beeline.core.errors import require
from beeline.core.protocols.flows import Guidance
from beeline.core.protocols.steering import Energy
from beeline.core.ranges import Count, NonNegative, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, Dynamics, map_cond
from beeline.sampling.guidance.dependence import Containing
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.steering.controller import energies_of
from beeline.solvers.process import FieldReadout
from beeline.spaces.simplex import InteriorPath, PosteriorNetwork, probabilities, project_to_simplex


@dataclass(frozen=True)
class StraightThrough(Containing):
    """Straight-through classifier guidance: adds the classifier's gradient at symbols sampled from the prediction.

    v = sum_k p_k u_k(x, t) + strength x (G - <x, G>),  G = mean_m grad log c(z_m),  z_m ~ p(x1 | x, t) one-hot
    Assumes a PosteriorNetwork on an InteriorPath, and a differentiable classifier of clean one-hot sequences, or an
    energy E of them for log c = -E, which also gets the conditions.  The gradient is taken at the symbols.
    x (G - <x, G>) is G in the metric of the simplex, which keeps states on it; the paper subtracts the mean of G over
    symbols and clips.  All samples of a batch share the random numbers, so that none depends on its batch.
    Source: Tang et al. 2025, "Gumbel-Softmax Flow Matching with Straight-Through Guidance" (arXiv 2503.17361).

    >>> from beeline.spaces.simplex import GumbelSoftmax
    >>> net = PosteriorNetwork(lambda x, t: torch.zeros_like(x), GumbelSoftmax())
    >>> StraightThrough(lambda z: z[:, 0], 4.0)(net, None)(torch.ones(1, 2) / 2, torch.zeros(1))
    tensor([[ 1., -1.]])
    """

    classifier: Callable[[Tensor], Tensor] | None = None  # log c of one-hot data: [N,*S,K] -> [N]
    strength: NonNegative = 1.0  # 0 is no guidance
    draws: Count = 10  # sequences per evaluation
    base: Guidance = field(default_factory=Plain)  # guidance of the probabilities p
    rng: Rng = Rng(0)  # of the sequences
    energy: Energy | None = None  # -log c, instead of the classifier

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.strength) and self.strength >= 0 and self.draws >= 1,
            f"StraightThrough got strength={self.strength}, draws={self.draws}; the gradient needs a strength of at "
            "least 0 and at least one sequence: 1 and 10 are usual",
        )
        require(
            (self.classifier is None) != (self.energy is None),
            "StraightThrough got no classifier, or a classifier and an energy; it follows the gradient of one of them: "
            "give classifier= or energy=",
        )

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        if isinstance(field, FieldReadout):  # the final step to a symbol
            return self.base(field, cond)
        network = unwrapped(field)
        require(
            isinstance(network, PosteriorNetwork) and isinstance(network.path, InteriorPath),
            f"StraightThrough got {type(network).__name__}; it needs probabilities of symbols and states inside the "
            "simplex: use PosteriorNetwork(network, Dirichlet()) or PosteriorNetwork(network, GumbelSoftmax())",
        )
        posterior, count = self.base(FieldReadout(probabilities, field), cond), 0

        def f(x: Tensor, t: Tensor, *end: Tensor) -> Tensor:
            nonlocal count
            p, count = posterior(x, t), count + 1
            g = self.gradient(p, self.rng.fork("draws", count), cond)
            v: Tensor = network.path.mixture(x, t, p)
            y = project_to_simplex(x)
            return v + self.strength * y * (g - (y * g).sum(-1, keepdim=True))

        return f

    def gradient(self, p: Tensor, rng: Rng, cond: Cond = None) -> Tensor:
        """The mean gradient of log c [B,*S,K] at symbols sampled from the probabilities ``p`` [B,*S,K]."""
        u = rng.fill(p.new_empty(self.draws, *p.shape[1:], dtype=torch.float64)).clamp(min=1e-300)
        gumbel = -torch.log(-torch.log(u))
        best = (p.detach().clamp(min=1e-30).log()[:, None] + gumbel).argmax(-1)
        with torch.enable_grad():
            z = nn.functional.one_hot(best, p.shape[-1]).to(p).flatten(0, 1).requires_grad_()
            log_c = self.log_c(z, cond)
            require(
                log_c.shape == (len(z),) and log_c.requires_grad,
                f"the classifier returned shape {tuple(log_c.shape)} {'with' if log_c.requires_grad else 'without'} "
                f"gradient for {len(z)} sequences; guidance differentiates one log-probability per sequence: return a "
                "differentiable tensor [N]",
            )
            (slope,) = torch.autograd.grad(log_c.sum(), z)
        return slope.reshape(len(p), self.draws, *p.shape[1:]).mean(1)

    def log_c(self, z: Tensor, cond: Cond) -> Tensor:
        """log c [N] of one-hot data [N,*S,K], of which ``draws`` after another have one condition."""
        if self.classifier is not None:
            return self.classifier(z)
        assert self.energy is not None
        here = map_cond(lambda leaf: leaf.repeat_interleave(self.draws, 0), cond)
        return -energies_of(self.energy, z, z.new_ones(len(z)), here)

    def calls(self, t: float) -> int:
        return self.base.calls(t)
