"""End points on the ring with the exact velocity on new noises: every step evaluates the network at an aligned time."""

from __future__ import annotations

import beeline as bl
from beeline.distillation.fit_steps import AlignedSteps
from beeline.solvers.runge_kutta import EULER
from benchmarks.claims.ring import ONE_STEP, error, one_step, problem
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Timestep aligner"
CLAIM = "Aligned time steps make ten steps of DDIM much better."
SEEDS = 6


def measure(rng: bl.Rng) -> list[Finding]:
    fit, test, found = problem(rng.fork("fit"), 256), problem(rng.fork("test")), []
    for steps in (5, 10):
        schedule, solver = AlignedSteps()(fit, steps, rng)
        base, aligned = error(test, bl.Sampler(steps, solver=EULER)), error(test, bl.Sampler(steps, schedule, solver))
        found.append(finding(f"{steps} evaluations: aligned times (figure) against Euler", base, aligned,
                             one_step(test), ONE_STEP))  # fmt: skip
    return found
