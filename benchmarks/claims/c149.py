"""The ring with a measured coordinate: W2 distance to the exact posterior after 100 evaluations. Time travel takes two
steps for one in the middle (66 steps); every method has the size of its gradient searched."""

from __future__ import annotations

import beeline as bl
from beeline.sampling.steering.gradients.placements import StateKept
from beeline.sampling.steering.gradients.training_free import TFG
from beeline.solvers.time_travel import TimeTravel
from benchmarks.claims.measured import MEASURED, posterior, searched, steered
from benchmarks.claims.toys import finding, noise, w2
from benchmarks.claims.verdict import Finding

METHOD = "FreeDoM: energy guidance with time travel"
CLAIM = "Energies guide a flow without training, and repeats of the middle steps replace inner optimisations."
TRAVEL = TimeTravel(repeats=2, window=(0.25, 0.75))
SHORT = 66  # steps, of which the middle half is taken twice: about 100 evaluations


def measure(rng: bl.Rng) -> list[Finding]:
    x0, real = noise(rng), posterior(rng)
    through = TFG(MEASURED, mu=0.0)
    freedom = searched(through, ("rho",), rng, steps=SHORT, solver=TRAVEL)
    plain = searched(through, ("rho",), rng, steps=100)
    inner = searched(TFG(MEASURED, rho=0.0, iterations=5, kept=StateKept()), ("mu",), rng, steps=100)
    made = w2(steered(x0, freedom, steps=SHORT, solver=TRAVEL), real)
    first = w2(steered(x0, steps=SHORT, solver=TRAVEL), real)
    others = {"no guidance": first, "no time travel": w2(steered(x0, plain, steps=100), real),
              "inner optimisations": w2(steered(x0, inner, steps=100), real)}  # fmt: skip
    return [finding(f"W2 to the posterior: time travel (figure) against {name}", value, made, first, "no guidance")
            for name, value in others.items()]  # fmt: skip
