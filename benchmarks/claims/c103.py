"""The ring with a measured coordinate: W2 distance to the exact posterior. DPS differentiates the network; counted as
two more evaluations, its step costs three. The size of each is searched. The control is led to another measurement."""

from __future__ import annotations

from dataclasses import replace

import beeline as bl
from beeline.sampling.steering.gradients.placements import VelocityKept
from beeline.sampling.steering.gradients.training_free import TFG
from benchmarks.claims.measured import MEASURED, OPPOSITE, posterior, searched, steered
from benchmarks.claims.toys import finding, noise, w2
from benchmarks.claims.verdict import Finding

METHOD = "FlowChef: gradient skipping"
CLAIM = "Steering without a gradient of the network is better than steering with it, at a fraction of the cost."


def measure(rng: bl.Rng) -> list[Finding]:
    x0, real = noise(rng), posterior(rng)
    skipping = TFG(MEASURED, rho=0.0, iterations=1, kept=VelocityKept())
    chef = searched(skipping, ("mu",), rng, steps=99)
    made = w2(steered(x0, chef, steps=99), real)
    wrong = w2(steered(x0, replace(chef, energy=OPPOSITE), steps=99), real)
    trivial = "energy of another measurement"
    rows = [finding("W2 to the posterior: FlowChef (figure) against no guidance", w2(steered(x0, steps=99), real), made,
                    wrong, trivial)]  # fmt: skip
    for steps, cost in ((33, "at equal cost"), (99, "at three times the cost")):
        dps = searched(TFG(MEASURED, mu=0.0), ("rho",), rng, steps=steps)
        other = w2(steered(x0, dps, steps=steps), real)
        rows.append(finding(f"W2 to the posterior: FlowChef (figure) against DPS {cost}", other, made, wrong, trivial))
    return rows
