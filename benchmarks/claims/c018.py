"""Error of the noise found by inversion (against the exact noise) and of the reconstructed datum, on the ring."""

from __future__ import annotations

import beeline as bl
from beeline.solvers.runge_kutta import EULER, Taylor
from benchmarks.claims.ring import STILL, inverted, rmse, round_trip
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "RF-Solver: second-order Taylor steps for inversion"
CLAIM = "Lower inversion error than Euler, without training."
SEEDS = 6


def measure(rng: bl.Rng) -> list[Finding]:
    x1, exact = inverted(rng)
    still = rmse(x1, exact)
    at = lambda n, solver: round_trip(bl.Sampler(n, solver=solver), x1, exact)  # noqa: E731
    second = at(16, Taylor())
    return [
        finding("16 steps: RF-Solver (figure, 32 evaluations) against Euler (16)", at(16, EULER), second, still, STILL),
        finding("32 evaluations: RF-Solver (figure) against Euler", at(32, EULER), second, still, STILL),
    ]
