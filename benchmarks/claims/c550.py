"""The ring with its exact field and two energies, the squared distances to two of its modes. 100 samples, each the best
of 16 by its own preference; the hypervolume is the area of the pairs of energies below 40 that the samples dominate,
and diversity the mean distance of two samples. No network is trained on preferences."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.sampling.search.best_of import BestOf, ParetoBest
from beeline.sampling.search.fronts import hypervolume
from beeline.sampling.steering.energies.chebyshev import Chebyshev
from beeline.sampling.steering.energies.squared import Near
from benchmarks.claims.toys import RING, finding, noise
from benchmarks.claims.verdict import Finding

METHOD = "Preferences over several rewards"
CLAIM = "Samples under many preferences have a better hypervolume and diversity than those under one."
ENERGIES = (Near((4.0, 0.0), 0.5**0.5), Near((0.0, 4.0), 0.5**0.5))
STEPS, EACH = 10, 16


def volume(x: torch.Tensor) -> float:
    """The area that samples dominate."""
    values = torch.stack([energy(x, torch.ones(len(x))) for energy in ENERGIES], 1)
    return hypervolume(values, torch.full((2,), 40.0))


def measure(rng: bl.Rng) -> list[Finding]:
    x0, flow = noise(rng, 100), RING.flow()
    several = ParetoBest(STEPS, energies=ENERGIES, candidates=EACH, rng=rng)(flow, x0)
    even = BestOf(STEPS, energy=Chebyshev(ENERGIES, (0.5, 0.5)), candidates=EACH, rng=rng)(flow, x0)

    def total(x1: torch.Tensor, t: torch.Tensor, cond: Any = None) -> torch.Tensor:
        return ENERGIES[0](x1, t) + ENERGIES[1](x1, t)

    mean = BestOf(STEPS, energy=total, candidates=EACH, rng=rng)(flow, x0)
    free = bl.Sampler(STEPS)(flow, x0)
    apart = lambda x: float(torch.pdist(x).mean())  # noqa: E731
    return [
        finding("hypervolume: a preference for each (figure) against even ones, Chebyshev", volume(even),
                volume(several), volume(free), "no search", "higher"),
        finding("hypervolume: a preference for each (figure) against the sum of energies", volume(mean),
                volume(several), volume(free), "no search", "higher"),
        finding("diversity: a preference for each (figure) against even ones, Chebyshev", apart(even), apart(several),
                0.0, "one sample", "higher"),
        finding("diversity: a preference for each (figure) against the sum of energies", apart(mean), apart(several),
                0.0, "one sample", "higher"),
    ]  # fmt: skip
