"""Shared by the claims about steering: the ring with a measured coordinate, and its exact posterior."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.sampling.steering.gradients.fit import fit_guidance
from benchmarks.claims.toys import RING, TESTED, even, noise, w2

WANTED, DEVIATION = 2.83, 0.1  # the first coordinate, and the deviation of its noise
FLOW = bl.Flow(RING.field())
START, ROUNDS = 0.005, 9  # of the search for sizes: 0.005 to 2.56


class Coordinate:
    """Minus the log-likelihood of the measured coordinate."""

    def __init__(self, wanted: float = WANTED):
        self.wanted = wanted

    def __call__(self, x1: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return ((x1[:, 0] - self.wanted) / DEVIATION).square() / 2


MEASURED, OPPOSITE = Coordinate(), Coordinate(-WANTED)


def posterior(rng: bl.Rng, n: int = TESTED) -> Tensor:
    """[n,2] points of the exact posterior: a mixture, whose components are narrower in the first coordinate."""
    parts = RING.parts()
    prior, likelihood = parts.variances[:, 0], DEVIATION**2
    weights = parts.weights * torch.exp(-((parts.means[:, 0] - WANTED) ** 2) / (2 * (prior + likelihood)))
    narrow = prior * likelihood / (prior + likelihood)
    first = narrow * (parts.means[:, 0] / prior + WANTED / likelihood)
    base, k = even(GaussianMixture(parts.means, 1.0, weights / weights.sum()), rng, n)  # type: ignore[arg-type]
    z = base - parts.means[k].float()
    return torch.stack(
        [first[k] + narrow[k].sqrt() * z[:, 0], parts.means[k, 1] + prior[k].sqrt() * z[:, 1]], 1
    ).float()


def steered(x0: Tensor, *controllers: Any, steps: int = 50, solver: Any = bl.solvers.EULER) -> Tensor:
    """Samples of the ring under controllers."""
    return bl.Sampler(steps, solver=solver, controllers=controllers)(FLOW, x0)


def searched(controller: Any, names: tuple[str, ...], rng: bl.Rng, rounds: int = ROUNDS, **how: Any) -> Any:
    """The controller with the sizes of the lowest W2 distance to the posterior, on points of their own."""
    rng = rng.fork("search")
    x0, real = noise(rng, 256), posterior(rng, 256)

    def score(one: Any) -> float:
        try:
            return w2(steered(x0, one, **how), real)
        except (bl.IntegrationError, bl.BeelineError):  # sizes that are too large
            return float("inf")

    beam = 4 if len(names) == 1 else 3  # scores are not monotone in the sizes
    start = dict.fromkeys(names, START)
    return fit_guidance(score, controller, names, rounds=rounds, beam=beam, start=start).best
