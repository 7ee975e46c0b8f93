"""Translators: from what a sample shall show to the noise of a frozen flow that gives it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss
from beeline.networks.fp32 import zeroed
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.learning_rate import WarmupCosine

QUICK = Training(steps=600, batch_size=512, lr=WarmupCosine(1e-2, 20), ema=None)


class Translator(nn.Module):
    """Noise given a description c [B,size]: a mixture of Gaussians whose means and weights a network gives.

    p(x0 | c) = sum_k w_k(c) N(m_k(c), L_k L_k^T),  L_k lower triangular, m_k = a linear map of c + a network
    With one component it is the exact posterior of a linear map with Gaussian noise.
    Assumes noise of few numbers D, up to some hundreds: L_k has D^2.
    Source: Liu et al. 2023, "TR0N: Translator Networks for 0-Shot Plug-and-Play Conditional Generation" (arXiv
    2304.13742).

    >>> Translator(3, (2,)).sample(torch.zeros(4, 3), Rng(0)).shape
    torch.Size([4, 2])
    """

    def __init__(self, size: int, shape: Sequence[int], components: int = 1, width: int = 64):
        super().__init__()
        require(
            min(size, components, width, *shape) >= 1,
            f"Translator got size={size}, shape={tuple(shape)}, components={components} and width={width}; they are "
            "whole numbers from 1",
        )
        self.shape, self.components = tuple(shape), components
        n = math.prod(shape)
        self.linear = nn.Linear(size, components * n)
        last = zeroed(nn.Linear(width, components * (n + 1)))
        self.hidden = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)
        self.diagonal = nn.Parameter(torch.zeros(components, n))  # logarithms
        self.below = nn.Parameter(torch.zeros(components, n, n))

    def forward(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of the weights [B,K], and means [B,K,D]."""
        means, logits = self.hidden(c).split([self.linear.out_features, self.components], 1)
        return logits.log_softmax(1), (self.linear(c) + means).unflatten(1, (self.components, -1))

    def factors(self) -> Tensor:
        """L [K,D,D]."""
        return self.below.tril(-1) + torch.diag_embed(self.diagonal.exp())

    def log_prob(self, x0: Tensor, c: Tensor) -> Tensor:
        """Log density in nats, [B]."""
        logits, means = self(c)
        d = (x0.flatten(1)[:, None] - means).permute(1, 2, 0)  # [K,D,B]
        white = torch.linalg.solve_triangular(self.factors(), d, upper=False)
        each = -white.square().sum(1) / 2 - self.diagonal.sum(1)[:, None] - math.log(2 * math.pi) / 2 * d.shape[1]
        return torch.logsumexp(logits.T + each, 0)

    @torch.no_grad()
    def sample(self, c: Tensor, rng: Rng) -> Tensor:
        """Noise [B,*shape] for descriptions [B,size]."""
        logits, means = self(c)
        u = rng.fork("component").uniform(len(c), logits)[:, None]
        k = (logits.exp().cumsum(1) < u).sum(1).clamp(max=self.components - 1)
        z = rng.fork("noise").normal(means[:, 0])
        made = means[torch.arange(len(c), device=c.device), k] + (self.factors()[k] @ z[..., None])[..., 0]
        return made.unflatten(1, self.shape)


def likelihood(net: Any, batch: Batch, rng: Rng) -> Loss:
    """Minus the log density of the noise x1 of a batch, given its condition "input"."""
    given = batch.cond if isinstance(batch.cond, Mapping) else {}
    each = -net.log_prob(batch.x1, given["input"])
    return Loss(each.mean(), {"loss": each.detach().mean()}, each.detach(), torch.zeros_like(each.detach()))


def translated(
    generate: Callable[[Tensor], Tensor],
    describe: Callable[[Tensor], Tensor],
    x0: Tensor,
    rng: Rng,
    components: int = 4,
    noise: float = 0.0,
    training: Training = QUICK,
) -> Translator:
    """A translator for a frozen generator, fitted by likelihood to its own samples: no data are used.

    ``generate`` is a flow in few steps, such as ``lambda x0: sampler(flow, x0)``, and ``describe`` an encoder of its
    samples, [B,*S] -> [B,size].  ``x0`` [N,*S] is noise of the source of the flow; ``noise`` is the deviation of what
    is added to descriptions, for those of other origin, such as the embedding of a text.
    """
    require(len(x0) >= 2, f"translated got {len(x0)} points of noise; give some thousands [N,*S]")
    with torch.no_grad():
        c = torch.cat([describe(generate(part)) for part in x0.split(training.batch_size)])
    require(
        c.ndim == 2,
        f"describe returned the shape {tuple(c.shape)} for {len(x0)} samples; a description is one vector of each: "
        "return [B,size]",
    )
    c = c + noise * rng.fork("descriptions").normal(c)
    with rng.fork("start").ambient():
        net = Translator(c.shape[1], x0.shape[1:], components).to(x0.device)
    made: Translator = fit(net, likelihood, Batch(x0, cond={"input": c}), training, rng=rng.fork("fit"), log=_silent)
    return made


def refined(x0: Tensor, energy: Callable[[Tensor], Tensor], rng: Rng, steps: int = 20, size: float = 0.01) -> Tensor:
    """Noise [B,*S] after Langevin steps to the density N(x0; 0, I) exp(-energy(x0)), where energy is [B].

    x0 <- x0 - size / 2 (grad energy + x0) + sqrt(size) n
    The term of the prior is not in the paper, and without it noise leaves the region that the flow knows.
    """
    for k in range(steps):
        with torch.enable_grad():
            at = x0.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(energy(at).sum(), at)
        x0 = x0.detach() - size / 2 * (slope + x0.detach()) + math.sqrt(size) * rng.fork(k).normal(x0)
    return x0


def _silent(entry: Any) -> None:
    return None
