"""Deng et al. 2024: the midpoint rule with its last velocity used again is of second order at the price of Euler."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.core.solver import EULER, MIDPOINT, MidpointReuse
from benchmarks.claims.ring import FLOW, LAW, error, finding, problem, rmse

METHOD = "FireFlow: midpoint with reuse"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    test = problem(rng.fork("noise"))
    reuse, plain, euler = (
        error(test, bl.Sampler(n, solver=s)) for n, s in ((16, MidpointReuse()), (8, MIDPOINT), (17, EULER))
    )
    x1 = LAW.sample(512, rng.fork("data")).double()
    trip = lambda s: rmse(s(FLOW, s.invert(FLOW, x1)), x1)  # noqa: E731
    return [
        finding("end points on the ring, 17 evaluations: with reuse (figure) against Euler", euler, reuse),
        finding("17 evaluations with reuse (figure) against 16 of the plain midpoint rule", plain, reuse),
        finding(
            "round trip, 17 evaluations each way: with reuse (figure) against Euler",
            trip(bl.Sampler(17, solver=EULER)),
            trip(bl.Sampler(16, solver=MidpointReuse())),
        ),
    ]
