"""Zhang, Niwa and Kleijn 2024: least-squares weights of the last velocities improve every step."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.core.multistep import AdamsBashforth
from beeline.core.solver import EULER
from beeline.learn.fit_steps import Improved
from benchmarks.claims.ring import error, finding, problem

METHOD = "IIA: improved integration approximation"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    fit, test = problem(rng.fork("fit"), 256), problem(rng.fork("test"))
    schedule, solver = Improved()(fit, 8, rng)
    improved = error(test, bl.Sampler(8, schedule, solver))
    return [
        finding(f"end points on the ring on fresh noises, 8 evaluations: fitted weights against {name}", base, improved)
        for name, base in (
            ("Euler", error(test, bl.Sampler(8, solver=EULER))),
            ("Adams-Bashforth 2", error(test, bl.Sampler(8, solver=AdamsBashforth(2)))),
        )
    ]
