"""Wang et al. 2025: searched steps and multistep weights beat Adams-Bashforth at few evaluations."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.core.multistep import AdamsBashforth
from beeline.core.solver import EULER
from beeline.learn.fit_steps import Searched
from benchmarks.claims.ring import error, finding, problem

METHOD = "Differentiable solver search"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    fit, test = problem(rng.fork("fit"), 512), problem(rng.fork("test"))
    schedule, solver = Searched(iterations=250, fine=60)(fit, 5, rng)
    searched = error(test, bl.Sampler(5, schedule, solver))
    return [
        finding(f"end points on the ring on fresh noises, 5 evaluations: searched against {name}", base, searched)
        for name, base in (
            ("Euler", error(test, bl.Sampler(5, solver=EULER))),
            ("Adams-Bashforth 2", error(test, bl.Sampler(5, solver=AdamsBashforth(2)))),
        )
    ]
