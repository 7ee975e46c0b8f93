"""Xia et al. 2024: asking the network at an aligned time instead of the step's own makes Euler better."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.core.solver import EULER
from beeline.learn.fit_steps import Aligned
from benchmarks.claims.ring import error, finding, problem

METHOD = "Timestep aligner"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    fit, test, found = problem(rng.fork("fit"), 256), problem(rng.fork("test")), []
    for steps in (5, 10):
        schedule, solver = Aligned()(fit, steps, rng)
        base, aligned = error(test, bl.Sampler(steps, solver=EULER)), error(test, bl.Sampler(steps, schedule, solver))
        found.append(
            finding(
                f"end points on the ring on fresh noises, {steps} evaluations: aligned against Euler", base, aligned
            )
        )
    return found
