"""The ring with a measured coordinate: W2 distance to the exact posterior. The gradient is taken of the mean datum, or
of the end of four Euler steps (seven evaluations each); the size of each gradient is searched."""

from __future__ import annotations

import beeline as bl
from beeline.sampling.guidance.rules.scales import Rising
from beeline.sampling.steering.gradients.estimates import SeveralSteps
from beeline.sampling.steering.gradients.training_free import TFG
from benchmarks.claims.measured import MEASURED, posterior, searched, steered
from benchmarks.claims.toys import finding, noise, w2
from benchmarks.claims.verdict import Finding

METHOD = "Symplectic adjoint guidance"
CLAIM = "The gradient of an estimate by several steps guides better than that of the one-step estimate."
FEW = 24  # guided steps of several evaluations


def measure(rng: bl.Rng) -> list[Finding]:
    x0, real = noise(rng), posterior(rng)
    several = TFG(MEASURED, mu=0.0, rho_shape=Rising(), estimate=SeveralSteps(4))
    made = w2(steered(x0, searched(several, ("rho",), rng, steps=FEW), steps=FEW), real)
    first = w2(steered(x0, steps=FEW), real)
    rows = []
    for steps, cost in ((FEW, "in equal steps"), (7 * FEW, "with equal evaluations")):
        one = searched(TFG(MEASURED, mu=0.0, rho_shape=Rising()), ("rho",), rng, steps=steps)
        other = w2(steered(x0, one, steps=steps), real)
        rows.append(finding(f"W2 to the posterior: four steps (figure) against one, {cost}", other, made, first,
                            "no guidance"))  # fmt: skip
    return rows
