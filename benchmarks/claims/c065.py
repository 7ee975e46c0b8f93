"""Sets of 16 tokens in 4 parts, with two features each: a Gaussian with a random mean for every part (deviation 1) and
tokens around it (deviation 0.3), 25 Euler steps of its exact field. The energy is the mean squared distance of every
token to the nearest token of the same part of an appearance. Error is that of the means of the parts; spread is the
variance within parts over its true value, or the inverse if that is larger. The size of the gradients through the
network is searched for the lowest error, on other noise; the settings of the optimisation are not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.sampling.steering.gradients.fit import fit_guidance
from beeline.sampling.steering.gradients.optimised import PeriodicOptimisation
from beeline.sampling.steering.gradients.training_free import TFG
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "GuideFlow3D: periodic optimisation"
CLAIM = "Optimising the datum every few steps transfers the appearance of given parts without training."
PARTS, TOKENS, SIZE, OWN = 4, 4, 2, 0.3
STEPS, COUNT = 25, 128


def prior() -> Any:
    """The distribution of the sets, with the part in the first axis of the coordinates."""
    within = torch.ones(TOKENS, TOKENS) + OWN**2 * torch.eye(TOKENS)
    whole = torch.block_diag(*[torch.kron(within, torch.eye(SIZE))] * PARTS)
    return bl.distributions.Gaussian((0.0,) * len(whole), covariance=whole.tolist())


class Appearance:
    """The mean squared distance of tokens to the nearest token of their part, times ``weight``."""

    def __init__(self, tokens: Tensor, weight: float = 20.0):
        self.tokens, self.weight = tokens, weight  # [parts,tokens,size]

    def __call__(self, x1: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        x = x1.reshape(len(x1), PARTS, TOKENS, 1, SIZE)
        return self.weight * (x - self.tokens[:, None]).square().sum(-1).amin(-1).mean((1, 2))


def measure(rng: bl.Rng) -> list[Finding]:
    sets = prior()
    field = sets.field()
    shown = sets.sample(1, rng.fork("appearance"), dtype=torch.float32).reshape(PARTS, TOKENS, SIZE)
    x0 = rng.fork("start").normal(torch.empty(COUNT, PARTS * TOKENS * SIZE))

    def sampled(*controllers: Any, x0: Tensor = x0) -> Tensor:
        made = bl.Sampler(STEPS, solver=bl.solvers.EULER, controllers=controllers)(bl.Flow(field), x0)
        return made.reshape(-1, PARTS, TOKENS, SIZE)

    def error(x: Tensor) -> float:
        return float((x.mean(2) - shown.mean(1)).square().sum(-1).mean().sqrt())

    def spread(x: Tensor) -> float:
        ratio = float(x.var(2).mean()) / OWN**2
        return max(ratio, 1 / max(ratio, 1e-6))

    free = sampled()
    energy, other = Appearance(shown), Appearance(shown.roll(1, 0))
    made = sampled(PeriodicOptimisation(energy, every=5, iterations=20, lr=0.2))
    wrong = sampled(PeriodicOptimisation(other, every=5, iterations=20, lr=0.2))
    other_x0 = rng.fork("search").normal(x0)
    best = fit_guidance(
        lambda one: error(sampled(one, x0=other_x0)), TFG(energy, mu=0.0), ("rho",), rounds=8, beam=4,
        start={"rho": 0.05},
    ).best  # fmt: skip
    through = sampled(best)
    trivial = "appearance with exchanged parts"
    return [
        finding("error of the means: optimised (figure) against a fifth of no guidance", error(free) / 5, error(made),
                error(wrong), trivial),
        finding("error of the means: optimised (figure) against gradients through the network", error(through),
                error(made), error(wrong), trivial),
        finding("spread within parts: optimised (figure) against 2", 2.0, spread(made),
                spread(free.mean(2, keepdim=True).expand_as(free)), "one token for each part"),
    ]  # fmt: skip
