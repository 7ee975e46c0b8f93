"""End points on the ring with the exact velocity on new noises: searched steps and multistep weights."""

from __future__ import annotations

import beeline as bl
from beeline.distillation.fit_steps import Searched
from beeline.solvers.multistep import AdamsBashforth
from beeline.solvers.runge_kutta import EULER
from benchmarks.claims.ring import ONE_STEP, error, one_step, problem
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Differentiable solver search"
CLAIM = "Searched steps and multistep weights are far better than usual solvers at few evaluations."
SEEDS = 4


def measure(rng: bl.Rng) -> list[Finding]:
    fit, test = problem(rng.fork("fit"), 512), problem(rng.fork("test"))
    schedule, solver = Searched(iterations=120, fine=40)(fit, 5, rng)
    searched, control = error(test, bl.Sampler(5, schedule, solver)), one_step(test)
    return [
        finding(f"5 evaluations: searched (figure) against {name}", error(test, bl.Sampler(5, solver=base)), searched,
                control, ONE_STEP)
        for name, base in (("Euler", EULER), ("Adams-Bashforth 2", AdamsBashforth(2)))
    ]  # fmt: skip
