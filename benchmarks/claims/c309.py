"""Zhang and Chen 2023: an exponential multistep solver beats Euler; its higher orders lose at few evaluations."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.core.multistep import DEIS
from beeline.core.solver import EULER
from benchmarks.claims.ring import error, finding, problem

METHOD = "DEIS: exponential integrator"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    test = problem(rng)
    at = lambda n, solver: error(test, bl.Sampler(n, solver=solver))  # noqa: E731
    return [
        finding(
            "end points on the ring, 10 evaluations: DEIS of order 2 against Euler", at(10, EULER), at(10, DEIS(2))
        ),
        finding("20 evaluations: DEIS of order 3 against order 2", at(20, DEIS(2)), at(20, DEIS(3))),
        finding("6 evaluations: DEIS of order 3 against order 2", at(6, DEIS(2)), at(6, DEIS(3))),
    ]
