"""The ring with its exact field; the energy is the squared distance to a point that lies between two modes, without
gradient. Ten stochastic steps, the first five guided; 200 samples. The negative log-density of samples under the ring
is the price."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.sampling.search.best_of import BestOf
from beeline.sampling.search.stepwise import PathIntegral
from beeline.sampling.steering.energies.squared import Near
from beeline.solvers.diffusions import White
from beeline.solvers.sde import EulerMaruyama
from benchmarks.claims.toys import RING, finding, noise
from benchmarks.claims.verdict import Finding

METHOD = "Path-integral control by black-box rewards"
CLAIM = "Rewards improve without gradients or training when the noise of early steps is chosen by them."
WANTED = Near((4.2, 0.6), deviation=0.5**0.5)  # E = |x - wanted|^2
STEPS = 10


def energy(x: torch.Tensor) -> float:
    """The mean energy of samples."""
    return float(WANTED(x, torch.ones(len(x))).mean())


def unlikely(x: torch.Tensor) -> float:
    """The mean negative log-density under the ring, in nats."""
    return -float(RING.log_prob(x).mean())


def measure(rng: bl.Rng) -> list[Finding]:
    x0, flow = noise(rng, 200), RING.flow()
    solver = EulerMaruyama(White(rng.fork("noise")))

    def search(n: int, wanted: Any = WANTED) -> PathIntegral:
        return PathIntegral(STEPS, solver=solver, energy=wanted, candidates=n, rng=rng.fork("search"))

    twenty = search(20)
    assert twenty.evaluations is not None
    plain = bl.Sampler(STEPS, solver=solver)
    best = BestOf(STEPS, solver=bl.solvers.EULER, energy=WANTED, candidates=round(twenty.evaluations / STEPS),
                  rng=rng.fork("best"))  # fmt: skip
    free, made, five, several = plain(flow, x0), twenty(flow, x0), search(5)(flow, x0), best(flow, x0)
    blind = search(20, lambda x1, t, cond=None: torch.zeros_like(x1[:, 0]))(flow, x0)
    return [
        finding("energy: five noises (figure) against one", energy(free), energy(five), energy(blind),
                "an energy that is constant"),
        finding("energy: 20 noises (figure) against five", energy(five), energy(made), energy(blind),
                "an energy that is constant"),
        finding(f"energy: 20 noises (figure) against the best of {best.candidates}, equal evaluations", energy(several),
                energy(made), energy(blind), "an energy that is constant"),
        finding("negative log-density: 20 noises (figure) against the best of as many evaluations", unlikely(several),
                unlikely(made), unlikely(x0), "the initial noise"),
    ]  # fmt: skip
