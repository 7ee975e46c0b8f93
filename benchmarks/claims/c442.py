"""Favaro et al. 2024: bespoke non-stationary solvers cut the error many times at equal evaluations."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.core.solver import EULER, MIDPOINT
from beeline.learn.fit_solver import Bespoke
from benchmarks.claims.ring import error, finding, problem

METHOD = "Bespoke non-stationary solver (CaloDREAM)"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    fit, test = problem(rng.fork("fit"), 1024), problem(rng.fork("test"))
    schedule, solver = Bespoke(iterations=250)(fit, 6, rng)
    bespoke = error(test, bl.Sampler(6, schedule, solver))
    return [
        finding(f"end points on the ring on fresh noises, 6 evaluations: bespoke against {name}", base, bespoke)
        for name, base in (
            ("Euler", error(test, bl.Sampler(6, solver=EULER))),
            ("midpoint", error(test, bl.Sampler(3, solver=MIDPOINT))),
        )
    ]
