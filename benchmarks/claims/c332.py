"""The ring with a measured coordinate: W2 distance to the exact posterior after 50 evaluations. Forward guidance goes
through the network, backward guidance takes five gradient steps at the predicted datum; sizes are searched by doubling.
The control follows the energy of another measurement."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.sampling.steering.descending import EnergyGuidance
from beeline.sampling.steering.gradients.fit import fit_guidance
from beeline.sampling.steering.gradients.placements import StateKept
from beeline.sampling.steering.gradients.training_free import TFG
from beeline.solvers.time_travel import TimeTravel
from benchmarks.claims.measured import MEASURED, OPPOSITE, START, posterior, searched, steered
from benchmarks.claims.toys import finding, noise, w2
from benchmarks.claims.verdict import Finding

METHOD = "Universal guidance"
CLAIM = "Any differentiable energy guides a flow without training; backward steps and repeats improve it."
TRAVEL = TimeTravel(repeats=2)


def forward(strength: float, energy: Any = MEASURED) -> EnergyGuidance:
    """Guidance through the network."""
    return EnergyGuidance(energy, strength, damped=False)


def backward(size: float, energy: Any = MEASURED) -> TFG:
    """Guidance at the predicted datum."""
    return TFG(energy, rho=0.0, mu=size, iterations=5, kept=StateKept())


def both(rng: bl.Rng, **how: Any) -> tuple[float, float]:
    """The sizes of forward and backward guidance, searched together."""
    rng = rng.fork("search")
    x0, real = noise(rng, 128), posterior(rng, 128)

    def score(sizes: TFG) -> float:
        try:
            return w2(steered(x0, forward(sizes.rho), backward(sizes.mu), **how), real)
        except (bl.IntegrationError, bl.BeelineError):  # sizes that are too large
            return float("inf")

    start = {"rho": START, "mu": START / 10}
    best = fit_guidance(score, TFG(MEASURED), ("rho", "mu"), rounds=8, beam=3, start=start).best
    return best.rho, best.mu


def measure(rng: bl.Rng) -> list[Finding]:
    x0, real = noise(rng), posterior(rng)
    rho, mu = both(rng, steps=50)
    strength, size = both(rng, steps=25, solver=TRAVEL)
    alone = searched(EnergyGuidance(MEASURED, damped=False), ("strength",), rng, steps=50)
    plain, travelled = {"steps": 50}, {"steps": 25, "solver": TRAVEL}
    made = w2(steered(x0, forward(rho), backward(mu), **plain), real)
    wrong = w2(steered(x0, forward(rho, OPPOSITE), backward(mu, OPPOSITE), **plain), real)
    twice = w2(steered(x0, forward(strength), backward(size), **travelled), real)
    other = w2(steered(x0, forward(strength, OPPOSITE), backward(size, OPPOSITE), **travelled), real)
    trivial = "energy of another measurement"
    return [
        finding("W2 to the posterior: universal (figure) against no guidance", w2(steered(x0, **plain), real), made,
                wrong, trivial),
        finding("W2 to the posterior: universal (figure) against forward only", w2(steered(x0, alone, **plain), real),
                made, wrong, trivial),
        finding("W2 to the posterior: repeated steps (figure) against twice as many", made, twice, other, trivial),
    ]  # fmt: skip
