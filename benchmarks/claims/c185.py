"""Li et al. 2023: an evolutionary search over time steps, rescored on fresh noises."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.core.solver import EULER
from beeline.learn.fit_steps import Evolved
from benchmarks.claims.ring import error, finding, problem

METHOD = "AutoDiffusion: search over time steps (the layers are not searched)"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    fit, test = problem(rng.fork("fit"), 256), problem(rng.fork("test"))
    schedule, solver = Evolved(EULER)(fit, 4, rng.fork("search"))
    searched = error(test, bl.Sampler(4, schedule, solver))
    named = {
        "even": bl.schedules.Uniform(),
        "shift 0.5": bl.schedules.Shifted(0.5),
        "shift 2": bl.schedules.Shifted(2.0),
    }
    name, base = min(((n, error(test, bl.Sampler(4, s, EULER))) for n, s in named.items()), key=lambda pair: pair[1])
    return [
        finding(
            f"end points on the ring on fresh noises, 4 Euler steps: searched against the best named ({name})",
            base,
            searched,
        )
    ]
