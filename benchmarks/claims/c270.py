"""End points on the ring with the exact velocity on new noises: least-squares weights of the last velocities."""

from __future__ import annotations

import beeline as bl
from beeline.distillation.fit_steps import Improved
from beeline.solvers.multistep import AdamsBashforth
from beeline.solvers.runge_kutta import EULER
from benchmarks.claims.ring import ONE_STEP, error, one_step, problem
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "IIA: improved integration approximation"
CLAIM = "Samples improve markedly over first-order and multistep solvers below 25 evaluations."
SEEDS = 6


def measure(rng: bl.Rng) -> list[Finding]:
    fit, test = problem(rng.fork("fit"), 256), problem(rng.fork("test"))
    schedule, solver = Improved()(fit, 8, rng)
    improved, control = error(test, bl.Sampler(8, schedule, solver)), one_step(test)
    return [
        finding(f"8 evaluations: fitted weights (figure) against {name}", error(test, bl.Sampler(8, solver=base)),
                improved, control, ONE_STEP)
        for name, base in (("Euler", EULER), ("Adams-Bashforth 2", AdamsBashforth(2)))
    ]  # fmt: skip
