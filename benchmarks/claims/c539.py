"""The ring with its exact field; the energy is the squared distance to a point that lies between two modes. At most
500 evaluations for each of 64 samples, ten steps: best of 50 (Euler steps), greedy search with 55 children a step
(496), and rollover with 25 initial states, on the straight and on the variance-preserving path."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.sampling.search.best_of import BestOf
from beeline.sampling.search.rollover import RolloverBudget
from beeline.sampling.search.stepwise import GreedySearch
from beeline.solvers.diffusions import Fading, White
from beeline.solvers.sde import EulerMaruyama
from benchmarks.claims.c154 import WANTED, energy, unlikely
from benchmarks.claims.toys import LINE, RING, finding, noise
from benchmarks.claims.verdict import Finding

METHOD = "Search with rollover budget forcing"
CLAIM = "Stochastic generation on a variance-preserving path with rollover budget forcing outperforms other searches."
STEPS, BUDGET = 10, 500


def measure(rng: bl.Rng) -> list[Finding]:
    x0 = noise(rng, 64)
    made: dict[str, Any] = {"best": BestOf(STEPS, solver=bl.solvers.EULER, energy=WANTED, candidates=BUDGET // STEPS,
                            rng=rng)(RING.flow(), x0)}  # fmt: skip
    for name, path in (("straight", LINE), ("VP", bl.paths.VariancePreserving())):
        solver, flow = EulerMaruyama(White(rng), Fading(2.0), path), RING.flow(path)
        children = (BUDGET - 1) // (STEPS - 1)
        greedy = GreedySearch(STEPS, solver=solver, energy=WANTED, candidates=children, rng=rng.fork("greedy"))
        rollover = RolloverBudget(
            STEPS, solver=solver, energy=WANTED, candidates=25, budget=BUDGET, rng=rng.fork("roll")
        )
        blind = RolloverBudget(STEPS, solver=solver, energy=lambda x1, t, cond=None: torch.zeros_like(x1[:, 0]),
                               candidates=25, budget=BUDGET, rng=rng.fork("roll"))  # fmt: skip
        for key, search in (("greedy", greedy), ("rollover", rollover), ("blind", blind)):
            made[f"{key} {name}"] = search(flow, x0)
    e = {name: energy(x) for name, x in made.items()}
    control = e["blind VP"], "an energy that is constant"
    return [
        finding("energy: greedy search (figure) against best of 50, straight path", e["best"], e["greedy straight"],
                e["blind straight"], control[1]),
        finding("energy: rollover (figure) against best of 50, VP path", e["best"], e["rollover VP"], *control),
        finding("energy: rollover (figure) against greedy search, VP path", e["greedy VP"], e["rollover VP"], *control),
        finding("energy: rollover (figure) against greedy search, straight path", e["greedy straight"],
                e["rollover straight"], e["blind straight"], control[1]),
        finding("energy: rollover on the VP path (figure) against the straight path", e["rollover straight"],
                e["rollover VP"], *control),
        finding("negative log-density: rollover on the VP path (figure) against best of 50", unlikely(made["best"]),
                unlikely(made["rollover VP"]), unlikely(x0), "the initial noise"),
    ]  # fmt: skip
