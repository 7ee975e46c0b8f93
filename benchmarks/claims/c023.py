"""Errors of end points, and of inversion and reconstruction (as in 018), on the ring with the exact velocity."""

from __future__ import annotations

import beeline as bl
from beeline.solvers.runge_kutta import EULER, MIDPOINT, MidpointReuse, Taylor
from benchmarks.claims.ring import ONE_STEP, STILL, error, inverted, one_step, problem, rmse, round_trip
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "FireFlow: midpoint with reuse"
CLAIM = "Accurate inversion and editing in 8 steps, three times faster than earlier inversion of rectified flows."
SEEDS = 6


def measure(rng: bl.Rng) -> list[Finding]:
    test = problem(rng.fork("noise"))
    ends = lambda n, solver: error(test, bl.Sampler(n, solver=solver))  # noqa: E731
    x1, exact = inverted(rng.fork("data"))
    trip = lambda n, solver: round_trip(bl.Sampler(n, solver=solver), x1, exact)  # noqa: E731
    reuse, control, still = ends(16, MidpointReuse()), one_step(test), rmse(x1, exact)
    quick = trip(8, MidpointReuse())
    return [
        finding("end points, 17 evaluations: with reuse (figure) against Euler", ends(17, EULER), reuse, control,
                ONE_STEP),
        finding("end points, 17 evaluations with reuse (figure) against 16 of the plain midpoint rule",
                ends(8, MIDPOINT), reuse, control, ONE_STEP),
        finding("inversion and return, 9 evaluations each way: with reuse (figure) against Euler", trip(9, EULER),
                quick, still, STILL),
        finding("inversion and return: 8 steps with reuse (figure, 9 evaluations) against RF-Solver with three times "
                "as many (14 steps, 28 evaluations)", trip(14, Taylor()), quick, still, STILL),
    ]  # fmt: skip
