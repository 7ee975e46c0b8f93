"""The ring with a measured coordinate: W2 distance to the exact posterior after 50 evaluations. Every method has its
sizes searched by doubling, the unified one all of rho, mu and gamma, as its paper does."""

from __future__ import annotations

import beeline as bl
from beeline.sampling.steering.gradients.placements import VelocityKept
from beeline.sampling.steering.gradients.training_free import TFG
from benchmarks.claims.measured import MEASURED, posterior, searched, steered
from benchmarks.claims.toys import finding, noise, w2
from benchmarks.claims.verdict import Finding

METHOD = "TFG: unified training-free guidance"
CLAIM = "One algorithm with five parameters, found by a search, is better than the methods that it contains."
SINGLE = {
    "DPS": (TFG(MEASURED, mu=0.0), ("rho",)),
    "MPGD": (TFG(MEASURED, rho=0.0, iterations=1), ("mu",)),
    "FlowChef": (TFG(MEASURED, rho=0.0, iterations=1, kept=VelocityKept()), ("mu",)),
}


def measure(rng: bl.Rng) -> list[Finding]:
    x0, real = noise(rng), posterior(rng)
    made = w2(steered(x0, searched(TFG(MEASURED, iterations=4), ("rho", "mu", "gamma"), rng, rounds=7)), real)
    first = w2(steered(x0), real)
    return [
        finding(f"W2 to the posterior: unified (figure) against {name}",
                w2(steered(x0, searched(controller, names, rng, rounds=7)), real), made, first, "no guidance")
        for name, (controller, names) in SINGLE.items()
    ]  # fmt: skip
