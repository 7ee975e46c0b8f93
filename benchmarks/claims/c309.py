"""End points on the ring with the exact velocity: exponential multistep solvers."""

from __future__ import annotations

import beeline as bl
from beeline.solvers.multistep import DEIS
from beeline.solvers.runge_kutta import EULER
from benchmarks.claims.ring import ONE_STEP, error, one_step, problem
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "DEIS: exponential integrator"
CLAIM = "Good samples in 10 to 15 evaluations; higher orders gain more."
SEEDS = 6


def measure(rng: bl.Rng) -> list[Finding]:
    test = problem(rng)
    at = lambda n, solver: error(test, bl.Sampler(n, solver=solver))  # noqa: E731
    control = one_step(test)
    return [
        finding(f"{n} evaluations: {name}", at(n, base), at(n, solver), control, ONE_STEP)
        for n in (10, 15)
        for name, base, solver in (
            ("order 2 (figure) against Euler", EULER, DEIS(2)),
            ("order 3 (figure) against order 2", DEIS(2), DEIS(3)),
        )
    ]
